"""EmoTale, enacted Danish and English speech with VAD annotations."""

import dataclasses
import os
import statistics
from collections.abc import Mapping

from data_prep import tables
from data_prep.corpora import base
from data_prep.manifest import VAD, Manifest, Utterance
from data_prep.tables import CorpusError

ANNOTATORS = ('a1', 'a2', 'a3')


def parse(
  spec: base.Corpus,
  audio_dir: str | os.PathLike[str],
  *,
  on_error: str = 'raise',
) -> Manifest:
  """Reads the repository: `wav/` and `annotations.csv`.

  Valence, arousal and dominance are the means of the three annotators, whose
  agreement is that over these utterances.
  """
  base.find_wavs(audio_dir)
  table = base.find_one(
    audio_dir, ['annotations.csv'], 'valence, arousal, dominance'
  )
  columns = [f'{a}_{d}' for a in ANNOTATORS for d in 'VAD']
  rows = {
    row['file']: row
    for _, row in tables.read_table(table, ['file', 'gt_emotion', *columns])
  }
  ratings = {}

  def complete(utterance: Utterance) -> Utterance:
    row, emotion = rows.get(f'{utterance.id}.wav'), utterance.id.split('_')[2]
    if row is None:
      raise CorpusError(f'has no line in {table}')
    if row['gt_emotion'] != emotion:
      raise CorpusError(
        f'is {emotion!r} by its name and {row["gt_emotion"]!r} in {table}'
      )
    given = {name: _ratings(row, name, spec, table) for name in VAD}
    ratings[utterance.id] = given
    means = {name: statistics.fmean(values) for name, values in given.items()}
    return dataclasses.replace(utterance, **means)

  manifest = base.from_names(
    spec, audio_dir, on_error=on_error, complete=complete
  )
  from data_prep import agreement  # Only here: help does without NumPy.

  kept = [ratings[utterance.id] for utterance in manifest.utterances]
  by_name = {name: [given[name] for given in kept] for name in VAD}
  return dataclasses.replace(manifest, annotators=agreement.summarise(by_name))


def _ratings(
  row: Mapping[str, str], name: str, spec: base.Corpus, table: object
) -> list[float]:
  """Returns what each annotator says of one dimension.

  They are checked one by one: a mean could hide one that is off the scale.
  """
  low, high = spec.vad_range
  ratings = []
  for column in (f'{a}_{name[0].upper()}' for a in ANNOTATORS):
    try:
      rating = float(row[column])
    except ValueError as error:
      raise CorpusError(
        f'its line in {table} has no number ({error})'
      ) from error
    if not low <= rating <= high:
      raise CorpusError(
        f'its line in {table} has {column} {rating:g}, outside of the scale '
        f'from {low:g} to {high:g}'
      )
    ratings.append(rating)
  return ratings
