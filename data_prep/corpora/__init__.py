"""Parsers: one small module per corpus, and the table of all of them."""

import collections
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
from data_prep.manifest import Manifest, read_manifest
from data_prep.tables import CorpusError, listed, natural_key

__all__ = ['CORPORA', 'Corpus', 'compare', 'get', 'read']


def _demo(spec: Corpus, audio_dir: str, *, on_error: str) -> Manifest:
  """Reads the table that `data_prep.demo.write_corpus` wrote."""
  return read_manifest(
    pathlib.Path(audio_dir, 'manifest.tsv'),
    corpus=spec.name,
    classes=list(spec.classes),
    vad_range=spec.vad_range,
    on_error=on_error,
  )


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
  """Returns the corpus of this name, in the form in which `audio_dir` has it."""
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
) -> tuple[Corpus, Manifest, str]:
  """Finds, parses and checks a corpus.

  Args:
    name: Key of `CORPORA`.
    audio_dir: Folder that holds it.
    on_error: 'raise', or 'skip' to leave out unusable files (listed in
      `Manifest.rejected`).
    allow_incomplete: Accept a corpus that differs from the published one.
    **options: Options of this corpus, see `Corpus.options`.

  Returns:
    Its description, its utterances in published order, and in what they differ
    from what is published, see `compare`.

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
  difference = compare(spec, manifest)
  if difference and not allow_incomplete:
    raise CorpusError(
      f'{difference}\nThe corpus differs from the published one. Complete the '
      'folder, or prepare what is there with --allow_incomplete (scores are '
      'then not comparable with published ones).'
    )
  return spec, manifest, difference


def compare(spec: Corpus, manifest: Manifest) -> str:
  """Returns in what a manifest differs from what is published, '' if nothing.

  Line by line: classes and the number of speakers, ids whose audio is absent
  (where they can be foretold), and ids that the published corpus does not have.
  """
  utterances = manifest.utterances
  ids = {utterance.id for utterance in utterances}
  missing, extra = set(manifest.missing), set()
  if spec.expected:
    missing, extra = missing | (spec.expected - ids), ids - spec.expected
  labels = collections.Counter(u.label for u in utterances)
  lines = [
    f'  class {name}: {labels[name]:,} of {wanted:,}'
    for name, wanted in spec.classes.items()
    if wanted is not None and labels[name] != wanted
  ]
  speakers = sorted({u.speaker for u in utterances})
  if spec.speakers is not None and len(speakers) != spec.speakers:
    lines.append(
      f'  speakers: {len(speakers)} of {spec.speakers} ({", ".join(speakers)})'
    )
  for names, title in ((missing, 'missing'), (extra, 'unknown')):
    if names:
      lines.append(f'  {title} ({len(names):,}):')
      lines.append(listed(sorted(names, key=natural_key), 40, indent='    '))
  of = f' of {spec.count:,}' if spec.count else ''
  head = f'{spec.name}: {len(utterances):,}{of} utterances'
  return '\n'.join([head, *lines]) if lines else ''


def _guess(paths: Sequence[pathlib.Path]) -> Corpus | None:
  """Returns the corpus whose names over half of the files have."""
  hits = {
    spec.name: sum(spec.fields(path) is not None for path in paths)
    for spec in CORPORA.values()
  }
  best = max(hits, key=hits.get)
  return CORPORA[best] if 2 * hits[best] > len(paths) else None
