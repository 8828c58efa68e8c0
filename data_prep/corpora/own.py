"""A corpus of the user's own: a table of its audio files."""

import os
import pathlib
import re

from data_prep import manifest as manifest_lib
from data_prep.corpora import base
from data_prep.manifest import Manifest
from data_prep.tables import CorpusError

OPTIONS = ('manifest', 'vad_range', 'name')


def parse(
  spec: base.Corpus,
  audio_dir: str | os.PathLike[str] | None = None,
  *,
  on_error: str = 'raise',
  manifest: str | os.PathLike[str] | None = None,
  vad_range: tuple[float, float] | None = None,
  name: str | None = None,
) -> Manifest:
  """Reads a user's table; its rows keep their order."""
  if not (manifest or audio_dir):
    raise CorpusError(
      'manifest: give your table as --manifest=FILE.tsv (and --audio_dir=DIR if '
      'its paths are relative to another folder).'
    )
  table = pathlib.Path(manifest or pathlib.Path(audio_dir, 'manifest.tsv'))
  if name is None:
    name = re.sub(r'[^a-z0-9]+', '_', table.stem.lower()).strip('_')
    name = name if name[:1].isalpha() else f'corpus_{name}'.strip('_')
  elif not re.fullmatch(r'[a-z][a-z0-9_]*', name):
    raise CorpusError(
      f'--name={name}: use small letters, digits and _, beginning with a '
      'letter, as in --name=my_corpus.'
    )
  return manifest_lib.read_manifest(
    table, corpus=name, root=audio_dir, vad_range=vad_range, on_error=on_error
  )
