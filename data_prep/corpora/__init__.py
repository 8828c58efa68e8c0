"""Parsers: one small module per corpus, and the table of all of them."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.corpora import (
  base,
  casia,
  crema_d,
  demo,
  emodb,
  emotale,
  emovo,
  iemocap,
  msp_improv,
  msp_podcast,
  own,
  ravdess,
  savee,
)
from data_prep.corpora.base import Corpus
from data_prep.corpora.completeness import Check, compare
from data_prep.manifest import CorpusError, Manifest

__all__ = ['CORPORA', 'Check', 'Corpus', 'compare', 'get', 'read']

CORPORA: Mapping[str, Corpus] = {
  corpus.name: corpus
  for corpus in (
    demo.CORPUS,
    emodb.CORPUS,
    ravdess.CORPUS,
    savee.CORPUS,
    emovo.CORPUS,
    casia.CORPUS,
    iemocap.CORPUS,
    msp_improv.CORPUS,
    msp_podcast.CORPUS,
    emotale.CORPUS,
    crema_d.CORPUS,
    own.CORPUS,
  )
}


def get(name: str, audio_dir: str | os.PathLike[str] | None = None) -> Corpus:
  """The corpus of this name, in the form in which `audio_dir` holds it.

  Raises:
    CorpusError: There is none of this name; the message lists them.
  """
  if name not in CORPORA:
    raise CorpusError(
      f'--corpus={name}: is unknown; choose one of {", ".join(CORPORA)}.'
    )
  if name == 'crema_d' and str(audio_dir).partition(':')[0] == 'tfds':
    return crema_d.TFDS
  return CORPORA[name]


def read(
  name: str,
  audio_dir: str | os.PathLike[str] | None,
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
  check = compare(spec, manifest)
  if not allow_incomplete:
    check.require_complete()
  return spec, manifest, check


def _guess(paths: Sequence[pathlib.Path]) -> Corpus | None:
  """The corpus whose names most of the files have, if that is over half."""
  hits = {
    spec.name: sum(bool(spec.pattern.search(p.as_posix())) for p in paths)
    for spec in CORPORA.values()
    if spec.pattern
  }
  best = max(hits, key=hits.get)
  return CORPORA[best] if 2 * hits[best] > len(paths) else None
