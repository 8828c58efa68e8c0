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
import functools
import json
import numbers
import os
import pathlib
from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from jaxser.core import files
from jaxser.core.errors import UserError

SELECTIONS = {
  'last': 'last epoch',
  'ema_last': 'last epoch, moving average of the weights',
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


def _count(value: Any) -> int | None:
  """Returns an int (also of NumPy's) from 0, None of anything else."""
  whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  return int(value) if whole and value >= 0 else None


def _name(value: Any) -> str | None:
  return value if isinstance(value, str) and value else None


def _floats(values: Any, size: int = 0) -> tuple[float, ...] | None:
  """Returns floats of six significant digits, None if they are not finite."""
  try:
    values = np.asarray(values, np.float64)
  except (TypeError, ValueError):
    return None
  right = values.size == size if size else values.size
  if values.ndim != 1 or not right or not np.isfinite(values).all():
    return None
  return tuple(float(f'{x:.6g}') for x in values.tolist())


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What was predicted for one utterance, and its target.

  Construction rounds numbers to six significant digits and checks everything,
  so that a prediction in memory equals the same one read from a file.
  """

  seed: int
  fold: int  # Of the fold that tests the utterance, from 0.
  selection: str  # A key of `SELECTIONS`.
  epoch: int | None  # Whose weights were used, None where it is not known.
  id: str  # Of the utterance.
  speaker: str  # '' where it is not known.
  target: str | tuple[float, ...]  # Class, or (valence, arousal, dominance).
  prediction: str | tuple[float, ...]  # Likewise.
  scores: tuple[float, ...] | None = None  # Probability of each class.

  def __post_init__(self):
    classes = self.task == 'classification'
    convert = _name if classes else functools.partial(_floats, size=3)
    plain = {
      'seed': _count(self.seed),
      'fold': _count(self.fold),
      'selection': self.selection if self.selection in SELECTIONS else None,
      'epoch': _count(self.epoch),
      'id': _name(self.id),
      'speaker': self.speaker if self.speaker == '' else _name(self.speaker),
      'target': convert(self.target),
      'prediction': convert(self.prediction),
      'scores': _floats(self.scores),
    }
    null = {'epoch': self.epoch is None, 'scores': not classes}
    for name, value in plain.items():
      if (value is None) != null.get(name, False):
        raise PredictionsError(
          f'"{name}" is {getattr(self, name)!r}, which cannot be in a '
          f'{self.task}'
        )
      object.__setattr__(self, name, value)

  @property
  def task(self) -> str:
    """'classification' or 'regression'."""
    return 'classification' if isinstance(self.target, str) else 'regression'

  def to_json(self) -> str:
    """Returns the line of predictions.jsonl, without its end."""
    fields = dataclasses.asdict(self)
    if self.scores is None:
      del fields['scores']
    return json.dumps(fields, ensure_ascii=False, allow_nan=False)

  @classmethod
  def from_json(cls, line: str) -> Self:
    """Reads what `to_json` wrote; raises PredictionsError for anything else."""
    known = [field.name for field in dataclasses.fields(cls)]
    try:
      fields = json.loads(line)
    except ValueError as error:
      raise PredictionsError(f'not JSON ({error})') from error
    if not isinstance(fields, dict) or {*fields, 'scores'} != {*known}:
      raise PredictionsError(
        f'expected an object with {", ".join(known)}, got {line.strip()}'
      )
    return cls(**fields)


def ordered(predictions: Iterable[Prediction]) -> list[Prediction]:
  """Returns them sorted by seed, selection and fold; within these as given."""
  selections = list(SELECTIONS)
  return sorted(
    predictions, key=lambda p: (p.seed, selections.index(p.selection), p.fold)
  )


def write_predictions(
  path: os.PathLike[str] | str, predictions: Iterable[Prediction]
) -> None:
  """Writes predictions.jsonl, `ordered`: the same ones give the same bytes."""
  text = ''.join(p.to_json() + '\n' for p in ordered(predictions))
  files.write_text(path, text)


def read_predictions(path: os.PathLike[str] | str) -> list[Prediction]:
  """Reads predictions.jsonl."""
  # Only '\n' ends a line: ids may hold other characters that Python splits at.
  lines = read_finished(path).removesuffix('\n').split('\n')
  if lines == ['']:
    raise PredictionsError(f'{path}: holds no prediction')
  predictions = []
  for number, line in enumerate(lines, 1):
    try:
      predictions.append(Prediction.from_json(line))
    except PredictionsError as error:
      raise PredictionsError(
        f'{path}:{number}: {error}; remove the file and start the command that '
        'made it again'
      ) from error
  return predictions


def read_finished(path: os.PathLike[str] | str) -> str:
  """Reads a file that a finished run leaves, or raises PredictionsError."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise PredictionsError(
      f'{path}: no such file; the run that makes it has not finished, start its '
      'command again to continue it'
    )
  try:
    return path.read_bytes().decode('utf-8')
  except UnicodeDecodeError as error:
    raise PredictionsError(f'{path}: not UTF-8 text ({error})') from error


def check_once(predictions: Iterable[Prediction]) -> None:
  """Checks that a run tested each utterance equally often, once in a fold.

  Usually by one fold, across corpora by all. Every (seed, selection) must hold
  the same utterances, and these must agree on target and speaker.
  """
  tested: dict[str, collections.Counter[str]] = collections.defaultdict(
    collections.Counter
  )
  truth: dict[str, tuple[Any, str]] = {}
  seen = set()
  for p in predictions:
    where = f'seed {p.seed}, selection {p.selection}'
    if (where, p.fold, p.id) in seen:
      raise PredictionsError(
        f'{where}, fold {p.fold}: {p.id!r} was predicted more than once'
      )
    seen.add((where, p.fold, p.id))
    tested[where][p.id] += 1
    if truth.setdefault(p.id, (p.target, p.speaker)) != (p.target, p.speaker):
      raise PredictionsError(
        f'{where}: {p.id!r} has target and speaker {p.target, p.speaker} here '
        f'but {truth[p.id]} before; the predictions are of different corpora'
      )
  for where, folds in tested.items():
    ranking = folds.most_common()
    (often, most), (seldom, least) = ranking[0], ranking[-1]
    if most != least:
      raise PredictionsError(
        f'{where}: {often!r} is tested by {most} folds, {seldom!r} by {least}; '
        'its folds overlap'
      )
    if missing := sorted(truth.keys() - folds.keys()):
      shown = ', '.join(map(repr, missing[:5]))
      more = f' and {len(missing) - 5} more' if len(missing) > 5 else ''
      raise PredictionsError(f'{where}: no prediction for {shown}{more}')
