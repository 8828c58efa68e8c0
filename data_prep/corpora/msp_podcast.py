"""MSP-Podcast, natural speech from podcasts: classes, VAD, official split."""

import os
import pathlib
from collections.abc import Iterator

from data_prep import tables
from data_prep.corpora import base
from data_prep.manifest import Manifest
from data_prep.tables import CorpusError

# Codes without a class that are kept: O is another class, X means that the
# annotators did not agree.
ROWS = {'all': {'O': '', 'X': ''}, 'agreed': {'O': ''}, 'classes': {}}
COLUMNS = (
  *('FileName', 'EmoClass', 'EmoAct', 'EmoVal', 'EmoDom', 'SpkrID', 'Gender'),
  'Split_Set',
)


def parse(
  spec: base.Corpus,
  audio_dir: str | os.PathLike[str],
  *,
  on_error: str = 'raise',
  rows: str = 'agreed',
) -> Manifest:
  """Reads a release: `Labels/labels_consensus.csv` and `Audios/`."""
  if rows not in ROWS:
    raise CorpusError(
      f'--rows={rows}: is unknown; choose one of {", ".join(ROWS)}.'
    )
  base.find_wavs(audio_dir)
  table = base.find_one(
    audio_dir, ['labels_consensus.csv', 'labels_concensus.csv'], 'the labels'
  )
  return base.from_labels(
    spec,
    audio_dir,
    _rows(table, {*spec.emotions, *ROWS['all']}),
    {**spec.emotions, **ROWS[rows]},
    note=f'rows left out (--rows={rows})',
    on_error=on_error,
  )


def _rows(table: pathlib.Path, codes: set[str]) -> Iterator[tuple]:
  """Yields the rows of the table as those of `base.from_labels`."""
  for line, row in tables.read_table(table, COLUMNS):
    if row['EmoClass'] not in codes:
      raise CorpusError(
        f'{table}: line {line} has EmoClass {row["EmoClass"]!r}; a release has '
        f'{", ".join(sorted(codes))}.'
      )
    try:
      fields = {
        'speaker': row['SpkrID'],
        'gender': tables.normal_gender(row['Gender']),
        'split': tables.normal_split(row['Split_Set']),
        'valence': tables.number(row['EmoVal']),
        'arousal': tables.number(row['EmoAct']),
        'dominance': tables.number(row['EmoDom']),
      }
    except ValueError as error:
      raise CorpusError(
        f'{table}: {row["FileName"]} has no number where one is due ({error}).'
      ) from error
    name = pathlib.PurePath(row['FileName']).stem
    yield f'{table}: line {line}', name, row['EmoClass'], fields
