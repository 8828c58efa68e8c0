"""predictions.jsonl: one line per prediction, from which every number comes.

  {"seed": 0, "fold": 3, "selection": "last", "epoch": 500, "id": "03a01Wa",
   "speaker": "03", "target": "angry", "prediction": "angry",
   "scores": [0.91, ...]}

`scores` follow the class order stated in results.json. Where valence, arousal
and dominance are predicted, `target` and `prediction` are lists of three
numbers on the scale of the corpus and there are no scores.
"""

import collections
import dataclasses
import json
import math
import numbers
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Self

from jaxser.core import files
from jaxser.core.errors import UserError

SELECTIONS = {
  'last': 'last epoch',
  'best_on_dev': 'best epoch on the development speakers',
  'best_on_test': (
    'best epoch on the test fold (optimistic: the epoch was chosen on the data '
    'it is tested on)'
  ),
  'init_from': 'weights as loaded (init_from), not trained here',
}
"""Which weights made a prediction, in the order of files and tables."""

DIMENSIONS = ('valence', 'arousal', 'dominance')


class PredictionsError(UserError):
  """Predictions cannot be used; the message says where, why and what to do."""


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, numbers.Real)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _six_digits(values: Iterable[float]) -> tuple[float, ...]:
  """Plain floats rounded to six significant digits."""
  return tuple(float(f'{float(value):.6g}') for value in values)


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What was recognised in one utterance, and what was said.

  Construction rounds numbers to six significant digits and checks everything,
  so that a prediction in memory equals the same one read from a file.

  Attributes:
    seed: of the run.
    fold: number of the fold whose test side holds the utterance, from 0.
    selection: a key of `SELECTIONS`.
    epoch: the epoch whose weights were used, None where it is not known.
    id: of the utterance.
    speaker: name, empty where it is not known.
    target: class name, or (valence, arousal, dominance).
    prediction: likewise.
    scores: probability of each class, None for valence, arousal, dominance.

  Raises:
    PredictionsError: a field is not what it should be.
  """

  seed: int
  fold: int
  selection: str
  epoch: int | None
  id: str
  speaker: str
  target: str | tuple[float, ...]
  prediction: str | tuple[float, ...]
  scores: tuple[float, ...] | None = None

  def __post_init__(self):
    self._set_integer('seed', 'a whole number from 0')
    self._set_integer('fold', 'a whole number from 0')
    if self.epoch is not None:
      self._set_integer('epoch', 'a whole number from 0, or null')
    if self.selection not in SELECTIONS:
      self._refuse('selection', f'one of {", ".join(SELECTIONS)}')
    if not isinstance(self.id, str) or not self.id:
      self._refuse('id', 'the name of an utterance')
    if not isinstance(self.speaker, str):
      self._refuse('speaker', 'a name, empty if unknown')
    if isinstance(self.target, str):
      if not self.target:
        self._refuse('target', 'a class name')
      if not isinstance(self.prediction, str) or not self.prediction:
        self._refuse('prediction', 'a class name, as the target is one')
      self._set_numbers('scores', 'one finite number per class')
    else:
      self._set_numbers('target', 'a class name or three numbers', 3)
      self._set_numbers('prediction', 'three numbers, as the target', 3)
      if self.scores is not None:
        self._refuse('scores', 'absent where the target is three numbers')

  def _refuse(self, name: str, expected: str) -> None:
    raise PredictionsError(
      f'"{name}" is {getattr(self, name)!r}, expected {expected}'
    )

  def _set_integer(self, name: str, expected: str) -> None:
    """Makes a field a plain int (of NumPy's, too), or refuses it."""
    value = getattr(self, name)
    if (
      not isinstance(value, numbers.Integral)
      or isinstance(value, bool)
      or value < 0
    ):
      self._refuse(name, expected)
    object.__setattr__(self, name, int(value))

  def _set_numbers(
    self, name: str, expected: str, length: int | None = None
  ) -> None:
    """Makes a field a tuple of rounded floats, or refuses it."""
    values = getattr(self, name)
    if hasattr(values, 'tolist'):  # A NumPy or JAX array.
      values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str):
      self._refuse(name, expected)
    if not values or (length is not None and len(values) != length):
      self._refuse(name, expected)
    if not all(_is_number(value) for value in values):
      self._refuse(name, f'{expected}, all finite')
    object.__setattr__(self, name, _six_digits(values))

  @property
  def task(self) -> str:
    """'classification' or 'regression'."""
    return 'classification' if isinstance(self.target, str) else 'regression'

  def to_json(self) -> str:
    """The line of predictions.jsonl, without its end."""
    fields = dataclasses.asdict(self)
    if self.scores is None:
      del fields['scores']
    return json.dumps(fields, ensure_ascii=False, allow_nan=False)

  @classmethod
  def from_json(cls, line: str) -> Self:
    """Reads what `to_json` wrote.

    Raises:
      PredictionsError: not JSON, a field is missing, unknown or wrong.
    """
    try:
      fields = json.loads(line)
    except ValueError as error:
      raise PredictionsError(f'not JSON ({error})') from error
    if not isinstance(fields, dict):
      raise PredictionsError(
        f'expected a JSON object, got {type(fields).__name__}'
      )
    known = [field.name for field in dataclasses.fields(cls)]
    missing = [n for n in known if n not in fields and n != 'scores']
    unknown = [name for name in fields if name not in known]
    if missing or unknown:
      raise PredictionsError(
        f'missing fields {missing}, unknown fields {unknown}; expected '
        f'{", ".join(known)}'
      )
    return cls(**fields)


def ordered(predictions: Iterable[Prediction]) -> list[Prediction]:
  """Sorted by seed, selection and fold; within these as given."""
  selections = list(SELECTIONS)
  return sorted(
    predictions, key=lambda p: (p.seed, selections.index(p.selection), p.fold)
  )


def write_predictions(
  path: os.PathLike[str] | str, predictions: Iterable[Prediction]
) -> None:
  """Writes predictions.jsonl whole or not at all, in `ordered` order.

  The same predictions give the same bytes.
  """
  lines = [prediction.to_json() + '\n' for prediction in ordered(predictions)]
  files.write_text(path, ''.join(lines))


def read_predictions(path: os.PathLike[str] | str) -> list[Prediction]:
  """Reads predictions.jsonl.

  Raises:
    PredictionsError: the file is missing or empty, or a line is wrong; the
      message starts with the file and the number of the line.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise PredictionsError(
      f'{path}: no such file; the run that makes it has not finished, start its '
      'command again to continue it'
    )
  predictions = []
  try:
    # Only '\n' ends a line: ids may hold other characters that Python splits at.
    with path.open(encoding='utf-8', newline='\n') as file:
      for number, line in enumerate(file, 1):
        try:
          predictions.append(Prediction.from_json(line))
        except PredictionsError as error:
          raise PredictionsError(
            f'{path}:{number}: {error}; remove the file and start the command '
            'that made it again'
          ) from error
  except UnicodeDecodeError as error:
    raise PredictionsError(f'{path}: not UTF-8 text ({error})') from error
  if not predictions:
    raise PredictionsError(f'{path}: holds no prediction')
  return predictions


def _some(names: Iterable[str]) -> str:
  """The first five names, and how many more there are."""
  names = sorted(names)
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return ', '.join(repr(name) for name in names[:5]) + more


def check_once(
  predictions: Iterable[Prediction], ids: Iterable[str] | None = None
) -> None:
  """Checks that all utterances were tested equally often, usually once.

  A fold predicts an utterance at most once, and all utterances are tested by
  the same number of folds: by one, or, across corpora, by all. Every (seed,
  selection) must hold the same utterances, and these must agree on target and
  speaker.

  Args:
    predictions: of a whole run.
    ids: every utterance that the protocol tests, if known.

  Raises:
    PredictionsError: naming the (seed, selection) and the utterances.
  """
  runs: dict[tuple[int, str], collections.Counter[str]] = {}
  known = set()
  truth: dict[str, tuple[Any, str]] = {}
  for p in predictions:
    name = (p.seed, p.selection, p.fold, p.id)
    if name in known:
      raise PredictionsError(
        f'seed {p.seed}, selection {p.selection}, fold {p.fold}: utterance '
        f'{p.id!r} was predicted more than once'
      )
    known.add(name)
    runs.setdefault((p.seed, p.selection), collections.Counter())[p.id] += 1
    if truth.setdefault(p.id, (p.target, p.speaker)) != (p.target, p.speaker):
      raise PredictionsError(
        f'seed {p.seed}, selection {p.selection}: utterance {p.id!r} has '
        f'target {p.target!r} and speaker {p.speaker!r} here but '
        f'{truth[p.id][0]!r} and {truth[p.id][1]!r} before; the predictions '
        'are of different corpora'
      )
  expected = set(truth) if ids is None else set(ids)
  for (seed, selection), times in runs.items():
    where, seen = f'seed {seed}, selection {selection}', set(times)
    by_count = times.most_common()
    (often, most), (seldom, least) = by_count[0], by_count[-1]
    if most != least:
      raise PredictionsError(
        f'{where}: utterance {often!r} is tested by {most} folds, {seldom!r} by '
        f'{least}; its folds overlap'
      )
    if expected - seen:
      raise PredictionsError(
        f'{where}: no prediction for {_some(expected - seen)}'
      )
    if seen - expected:
      raise PredictionsError(
        f'{where}: predictions for utterances that the protocol does not test: '
        f'{_some(seen - expected)}'
      )
