"""The feature store: what is prepared once and read by every run.

    DATA_DIR/CORPUS/FEATURES-FINGERPRINT/1.0.0/
      CORPUS-utterances.tfrecord-00000-of-00001   records, in published order
      dataset_info.json, features.json            what TFDS needs to read them
      manifest.tsv                                the same rows as a table
      store.json                                  parameters, classes, statistics
      rejected.tsv                                files left out, and why

It is an ordinary TFDS data set: `tfds.builder_from_directory(path)` reads it,
as does `tfds.load('CORPUS/FEATURES-FINGERPRINT', data_dir=DATA_DIR)`.

The fingerprint covers every parameter, every row and the audio itself, so that
equal content is one store, wherever its files lie and whenever they were
copied. A store is written under a temporary name and renamed when complete:
what has its final name is whole.
"""

import csv
import dataclasses
import filecmp
import functools
import hashlib
import json
import os
import pathlib
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from data_prep import audio, build, corpora, publishing
from data_prep import features as features_lib
from data_prep import manifest as manifest_lib
from data_prep.publishing import StoreError
from data_prep.tables import listed

VERSION_FOLDER = '1.0.0'
_Store = tuple[pathlib.Path, dict[str, Any]]


class NotPreparedError(StoreError):
  """There is no such store yet; `command` makes it."""

  def __init__(self, message: str, command: str):
    super().__init__(f'{message}\nPrepare it with `{command}`.')
    self.command = command


def prepare(
  manifest: manifest_lib.Manifest,
  corpus_spec: Any,
  *,
  features: features_lib.Convention,
  data_dir: os.PathLike[str] | str,
  on_error: str = 'raise',
  num_workers: int | None = None,
  report: Callable[[str], object] = print,
  overwrite: bool = False,
) -> pathlib.Path:
  """Extracts the features of a corpus into a store, or finds it there."""
  content = content_digest(manifest, features)
  root = pathlib.Path(data_dir).expanduser().absolute() / manifest.corpus
  final = root / f'{features.name}-{content[:8]}' / VERSION_FOLDER
  others = [
    path
    for path, info in _stores(data_dir, manifest.corpus, damaged='skip')
    if path != final
    and info['features'] == features.name
    and info['parameters'] == features.parameters()
  ]

  make = functools.partial(
    build.build,
    manifest,
    corpus_spec,
    features,
    content=content,
    on_error=on_error,
    num_workers=num_workers,
  )
  info = publishing.write_once(
    final, make, report=report, overwrite=overwrite, replaced=others
  )
  if info is None:
    return final
  report(
    f'{info["count"]} utterances of {manifest.corpus} '
    f'({info["total_duration"] / 60:.1f} minutes of audio) prepared in {final}.'
  )
  if info['rejected']:
    report(
      f'{info["rejected"]} files were left out; {final / "rejected.tsv"} lists '
      'them, with reasons.'
    )
  if warnings := info['warnings']:
    report(f'{len(warnings)} files have a harmless fault:\n{listed(warnings)}')
  if others and not overwrite:
    report(
      'These stores have the same features and parameters and came from other '
      'files or labels; a run will ask you to choose. --overwrite removes them:'
      f'\n{listed([str(path) for path in others])}'
    )
  return final


def find_store(
  data_dir: os.PathLike[str] | str, corpus: str, features: str, **wanted: Any
) -> pathlib.Path:
  """Returns the prepared store of a corpus; needs no TensorFlow."""
  stores = list(_stores(data_dir, corpus))
  found = []
  for each in stores:
    given = each[1]['parameters']
    fits = each[1]['features'] == features and all(
      name in given and given[name] == value for name, value in wanted.items()
    )
    # Equal content is one store, also where an earlier version made two.
    if fits and all(_difference(other, each) for other in found):
      found.append(each)
  if len(found) == 1:
    return found[0][0]
  asked = ', '.join([features, *(f'{k}={v}' for k, v in wanted.items())])
  if found:
    lines = [_described(*found[0])]
    for each in found[1:]:
      lines += [
        _described(*each),
        f'    differs from the first in {_difference(found[0], each)}',
      ]
    raise StoreError(
      f'{len(found)} stores of {corpus} have {asked}; delete all but one, or '
      'name a parameter that differs:\n' + '\n'.join(lines)
    )
  root = pathlib.Path(data_dir).expanduser()
  known = '\n'.join(['There is:', *(_described(*s) for s in stores)])
  prepared = sorted(
    {
      p.parents[2].name
      for p in root.glob(f'*/[!.]*/{VERSION_FOLDER}/store.json')
    }
  )
  names = f' Prepared there: {", ".join(prepared)}.' if prepared else ''
  words = ['python -m data_prep']
  if corpus in corpora.CORPORA:
    words.append(f'--corpus={corpus}')
    words += [] if corpus == 'demo' else ['--audio_dir=DIR']
  else:
    words.append(f'--corpus=manifest --name={corpus} --manifest=FILE.tsv')
    names += f' Known to data_prep: {", ".join(corpora.CORPORA)}.'
  words.append(f'--features={features}')
  words += ['--weights=DIR'] if features == 'wavlm' else []
  words += [f'--{name}={value}' for name, value in wanted.items()]
  words.append(shlex.quote(f'--data_dir={root}'))
  raise NotPreparedError(
    f'no store of {corpus} with {asked} in {root}. '
    f'{known if stores else "There is none yet." + names}',
    ' '.join(words),
  )


def content_digest(
  manifest: manifest_lib.Manifest, features: features_lib.Convention
) -> str:
  """Returns the hexadecimal digest of what the content of a store depends on.

  That is: the feature spec, its version and parameters, and of every utterance
  all that the manifest says, and the bytes of its file. Where the files lie and
  when they were changed does not matter.
  """
  digest = hashlib.sha256()
  head = {
    'features': features.name,
    'version': features_lib.VERSION,
    'parameters': features.parameters(),
    'classes': manifest.classes,
    'vad_range': manifest.vad_range,
  }
  digest.update(json.dumps(head, sort_keys=True).encode())
  for utterance in manifest.utterances:
    try:
      with open(utterance.path, 'rb') as file:
        audio_digest = hashlib.file_digest(file, 'sha256').hexdigest()
    except OSError as error:
      raise audio.AudioError(
        f'{utterance.path}: no such file ({error.strerror}); check the path and '
        'the audio directory.'
      ) from error
    row = dataclasses.asdict(utterance) | {'path': audio_digest}
    digest.update(json.dumps(row, sort_keys=True).encode())
  return digest.hexdigest()


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
  with open(path / 'manifest.tsv', encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file, delimiter='\t'))


def _difference(first: _Store, second: _Store) -> str:
  """Returns in what two stores of a corpus differ, '' if in nothing."""
  found = [
    f'{name} ({ours} / {theirs})'
    for name in sorted({*first[1]['parameters'], *second[1]['parameters']})
    if (ours := first[1]['parameters'].get(name))
    != (theirs := second[1]['parameters'].get(name))
  ]
  found += [
    name
    for name in ('feature_version', 'classes', 'vad_range', 'rejected')
    if first[1].get(name) != second[1].get(name)
  ]
  ours, theirs = (
    {r['id']: r for r in _rows(path)} for path, _ in (first, second)
  )
  if alone := sorted(ours.keys() ^ theirs.keys()):
    found.append(f'{len(alone)} utterances, like {alone[0]}')
  for column in manifest_lib.COLUMNS:
    changed = [
      name
      for name in ours
      if name in theirs and ours[name][column] != theirs[name][column]
    ]
    if changed and column != 'path':
      name = changed[0]
      found.append(
        f'the {column} of {len(changed)} utterances, like {name} '
        f'({ours[name][column]!r} / {theirs[name][column]!r})'
      )
  if not found and list(ours) != list(theirs):
    found.append('the order of their utterances')
  names = [[s['name'] for s in info['shards']] for _, info in (first, second)]
  if not found and (
    names[0] != names[1]
    or filecmp.cmpfiles(first[0], second[0], names[0], False)[0] != names[0]
  ):
    found.append('the audio')
  return ', '.join(found)


def _stores(
  data_dir: os.PathLike[str] | str, corpus: str, damaged: str = 'raise'
) -> Iterator[_Store]:
  """Yields the prepared stores of a corpus: path and store.json."""
  root = pathlib.Path(data_dir).expanduser().absolute() / corpus
  for path in sorted(root.glob(f'[!.]*-*/{VERSION_FOLDER}/store.json')):
    try:
      info = json.loads(path.read_text('utf-8'))
      if not isinstance(info['parameters'], dict):
        raise TypeError('its parameters are no table')
      str(info['features'])
    except (ValueError, KeyError, TypeError) as error:
      if damaged == 'skip':
        continue
      raise StoreError(
        f'{path} is damaged ({error}); delete {path.parents[1]} and prepare '
        'the corpus again.'
      ) from error
    yield path.parent, info


def _described(path: pathlib.Path, info: dict[str, Any]) -> str:
  """Returns a line with the path and the parameters that a user chooses."""
  chosen = [
    f'{name}={info["parameters"][name]}'
    for name in ('signal_length', 'layer', 'weights')
    if name in info['parameters']
  ]
  facts = [info['features'], *chosen, f'{info.get("count")} utterances']
  return f'  {path}  ({", ".join(facts)})'
