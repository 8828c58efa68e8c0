"""Parsers: one small module per corpus, and the table of all of them."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.corpora import (
  base,
  crema_d,
  emotale,
  iemocap,
  msp_improv,
  msp_podcast,
  own,
)
from data_prep.corpora.base import Corpus, load
from data_prep.corpora.completeness import Check, compare
from data_prep.manifest import Manifest
from data_prep.tables import CorpusError

__all__ = ['CORPORA', 'Check', 'Corpus', 'compare', 'get', 'read']


def _demo(spec: Corpus, audio_dir: str, *, on_error: str) -> Manifest:
  from data_prep import demo  # Only here: it needs SciPy.

  del spec
  return demo.demo_manifest(audio_dir, on_error=on_error)


CORPORA: Mapping[str, Corpus] = {
  spec.name: spec
  for spec in (
    load('demo', _demo),
    *map(load, ('emodb', 'ravdess', 'savee', 'emovo', 'casia')),
    load('iemocap', iemocap.parse),
    load('msp_improv', msp_improv.parse),
    load('msp_podcast', msp_podcast.parse, {'rows': 'agreed'}),
    load('emotale', emotale.parse),
    *map(load, ('crema_d', 'tess', 'nemo', 'urdu')),
    load('manifest', own.parse, dict.fromkeys(own.OPTIONS)),
  )
}


def get(name: str, audio_dir: str | os.PathLike[str] | None = None) -> Corpus:
  """Returns the corpus of this name, in the form in which `audio_dir` has it.

  Raises:
    CorpusError: There is none of this name; the message lists them.
  """
  if name not in CORPORA:
    raise CorpusError(
      f'--corpus={name}: is unknown; choose one of {", ".join(CORPORA)}. For a '
      f'corpus of your own: --corpus=manifest --manifest=FILE.tsv --name={name}.'
    )
  if name == 'crema_d' and str(audio_dir).partition(':')[0] == 'tfds':
    return crema_d.variant(CORPORA[name])
  return CORPORA[name]


def read(
  name: str,
  audio_dir: str | os.PathLike[str] | None,
  /,
  *,
  on_error: str = 'raise',
  allow_incomplete: bool = False,
  **options: Any,
) -> tuple[Corpus, Manifest, Check]:
  """Finds, parses and checks a corpus.

  Args:
    name: Key of `CORPORA`.
    audio_dir: Folder that holds it.
    on_error: 'raise', or 'skip' to leave out unusable files (listed in
      `Manifest.rejected`).
    allow_incomplete: Accept a corpus that differs from the published one.
    **options: Options of this corpus, see `Corpus.options`.

  Returns:
    Its description, its utterances in published order, and how they compare
    with what is published.

  Raises:
    CorpusError: The message names the file, the value, the rule, what to do.
  """
  spec = get(name, audio_dir)
  for option in options:
    if option not in spec.options:
      raise CorpusError(
        f'--{option}: is not an option of --corpus={name}; it has '
        f'{", ".join("--" + o for o in spec.options) or "none of its own"}.'
      )
  if not audio_dir and 'manifest' not in spec.options:
    raise CorpusError(
      f'--audio_dir is missing: give the folder that holds {spec.title}. '
      f'Expected there: {spec.layout}.'
    )
  try:
    manifest = spec.parse(audio_dir, on_error=on_error, **options)
  except base.WrongCorpusError as error:
    guess = _guess(error.paths)
    raise CorpusError(
      f'{error} '
      + (
        f'These are names of {guess.title}: try --corpus={guess.name}.'
        if guess
        else f'Expected in --audio_dir: {spec.layout}.'
      )
    ) from error
  if manifest.corpus != name and manifest.corpus in CORPORA:
    raise CorpusError(
      f'{manifest.corpus} is a known corpus; give yours another name, as in '
      f'--name=my_{manifest.corpus}.'
    )
  check = compare(spec, manifest)
  if not allow_incomplete:
    check.require_complete()
  return spec, manifest, check


def _guess(paths: Sequence[pathlib.Path]) -> Corpus | None:
  """Returns the corpus whose names over half of the files have."""
  hits = {
    spec.name: sum(spec.fields(path) is not None for path in paths)
    for spec in CORPORA.values()
  }
  best = max(hits, key=hits.get)
  return CORPORA[best] if 2 * hits[best] > len(paths) else None
