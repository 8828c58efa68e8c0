"""A corpus of the user's own: a table of its audio files."""

import os
import pathlib

from data_prep import manifest as manifest_lib
from data_prep.corpora import base
from data_prep.manifest import CorpusError, Manifest

NAME = 'manifest.tsv'


def parse(
  audio_dir: str | os.PathLike[str] | None = None,
  *,
  on_error: str = 'raise',
  manifest: str | os.PathLike[str] | None = None,
  vad_range: tuple[float, float] | None = None,
) -> Manifest:
  """Reads a user's table; its rows keep their order.

  Args:
    audio_dir: Folder that relative paths start from; by default the table's.
    on_error: 'skip' lists rows that cannot be used in `rejected`.
    manifest: The table; by default `manifest.tsv` in `audio_dir`.
    vad_range: Scale of its VAD columns.

  Raises:
    CorpusError: see `manifest.read_manifest`.
  """
  if not (manifest or audio_dir):
    raise CorpusError(
      'manifest: give your table as --manifest=FILE.tsv (and --audio_dir=DIR if '
      'its paths are relative to another folder).'
    )
  return manifest_lib.read_manifest(
    manifest or pathlib.Path(audio_dir, NAME),
    corpus=CORPUS.name,
    root=audio_dir,
    vad_range=vad_range,
    on_error=on_error,
  )


CORPUS = base.Corpus(
  name='manifest',
  title='your own corpus',
  parser=parse,
  classes={},
  speakers=None,
  languages=(),
  signal_length=100_000,
  licence='yours',
  homepage='',
  citation='',
  layout='--manifest=FILE.tsv: a table with tabs and a header; columns path, '
  'speaker, and label or valence arousal dominance; optional id gender text '
  'split. Paths are relative to --audio_dir or to the table',
  options={'manifest': None, 'vad_range': None},
)
