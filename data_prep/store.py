"""The feature store: what is prepared once and read by every run.

    DATA_DIR/CORPUS/FEATURES-FINGERPRINT/1.0.0/
      CORPUS-utterances.tfrecord-00000-of-00001   records, in published order
      dataset_info.json, features.json            what TFDS needs to read them
      manifest.tsv                                the same rows as a table
      store.json                                  parameters, classes, statistics
      rejected.tsv                                files left out, and why

It is an ordinary TFDS data set: `tfds.builder_from_directory(path)` reads it,
as does `tfds.load('CORPUS/FEATURES-FINGERPRINT', data_dir=DATA_DIR)`.

The fingerprint covers every parameter and every row and file of the corpus, so
that other parameters or other files make another store. A store is written
under a temporary name and renamed when complete: what has its final name is
whole.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from data_prep import audio, build, publishing
from data_prep import features as features_lib
from data_prep import manifest as manifest_lib
from data_prep.publishing import StoreError

VERSION_FOLDER = '1.0.0'


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
  progress: bool | Callable[[str], object] = True,
  overwrite: bool = False,
) -> pathlib.Path:
  """Extracts the features of a corpus into a store, or finds it there.

  Args:
    manifest: the utterances, in the order in which they will be stored.
    corpus_spec: what is published about the corpus (an entry of
      `data_prep.corpora.CORPORA`): title, citation, licence, homepage.
    features: a convention with its parameters.
    data_dir: where all stores lie.
    on_error: 'raise' stops at the first unusable file and leaves nothing;
      'skip' leaves it out and lists it in rejected.tsv.
    num_workers: processes that extract; by default one per core, fewer for a
      small corpus; 1 works in this process.
    progress: whether to say on standard error what happens; a function is
      called with each line instead, and the progress bar stays.
    overwrite: makes the store even if it exists, and removes others of this
      corpus with the same features and parameters.

  Returns:
    The directory that `tfds.builder_from_directory` takes.

  Raises:
    audio.AudioError: under 'raise', if a file is unusable; if all are.
    StoreError: if the store cannot be written, or exists and is damaged.
    workers.WorkerError: if extraction fails for a reason other than the audio.
    ValueError: if an argument is not valid.
  """
  if on_error not in ('raise', 'skip'):
    raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'.")
  if not re.fullmatch(r'[a-z][a-z0-9_]*', manifest.corpus):
    raise ValueError(
      f'{manifest.corpus!r} is not a name for a corpus; use small letters, '
      'digits and _, beginning with a letter.'
    )
  quiet_or_not = _print if progress else _ignore
  report = progress if callable(progress) else quiet_or_not
  final = store_path(manifest, features, data_dir)
  twins: list[pathlib.Path] = []

  def make(directory: pathlib.Path) -> dict[str, Any]:
    info = build.build(
      manifest,
      corpus_spec,
      features,
      directory,
      config=final.parent.name,
      on_error=on_error,
      num_workers=num_workers,
      progress=bool(progress),
    )
    twins.extend(_twins(final, features, data_dir))
    return info

  info = publishing.write_once(
    final, make, report=report, overwrite=overwrite, replaced=twins
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
  if twins and not overwrite:
    report(
      'These stores have the same features and parameters and came from other '
      'files or labels; a run will ask you to choose. --overwrite removes them:'
      f'\n{manifest_lib.listed([str(path) for path in twins])}'
    )
  return final


def find_store(
  data_dir: os.PathLike[str] | str,
  corpus: str,
  features: str,
  **wanted: Any,
) -> pathlib.Path:
  """The prepared store of a corpus; needs no TensorFlow.

  Args:
    data_dir: where all stores lie.
    corpus: its name.
    features: name of the convention.
    **wanted: values that parameters must have, e.g. `signal_length=96000`.

  Raises:
    NotPreparedError: if there is none; with the command that prepares it.
    StoreError: if there are several; the message lists them.
  """
  stores = list(_stores(data_dir, corpus))
  found = [
    path
    for path, info in stores
    if info['features'] == features
    and all(
      name in info['parameters'] and info['parameters'][name] == value
      for name, value in wanted.items()
    )
  ]
  if len(found) == 1:
    return found[0]
  asked = ', '.join([features, *(f'{k}={v}' for k, v in wanted.items())])
  if found:
    raise StoreError(
      f'{len(found)} stores of {corpus} have {asked}; delete all but one, or '
      f'name a parameter that differs:\n{_describe(stores, found)}'
    )
  known = f'There is:\n{_describe(stores)}' if stores else 'There is none yet.'
  flags = ''.join(f' --{name}={value}' for name, value in wanted.items())
  audio_dir = '' if corpus == 'demo' else ' --audio_dir=DIR'
  if features == 'wavlm':
    flags = f' --weights=DIR{flags}'
  raise NotPreparedError(
    f'no store of {corpus} with {asked} in {pathlib.Path(data_dir)}. {known}',
    f'python -m data_prep --corpus={corpus}{audio_dir} '
    f'--features={features}{flags} --data_dir={pathlib.Path(data_dir)}',
  )


def store_path(
  manifest: manifest_lib.Manifest,
  features: features_lib.Convention,
  data_dir: os.PathLike[str] | str,
) -> pathlib.Path:
  """Where the store of this corpus with these features lies, or will lie."""
  name = f'{features.name}-{fingerprint(manifest, features)}'
  root = pathlib.Path(data_dir).expanduser().absolute()
  return root / manifest.corpus / name / VERSION_FOLDER


def fingerprint(
  manifest: manifest_lib.Manifest, features: features_lib.Convention
) -> str:
  """Eight hexadecimal digits of what the content of a store depends on.

  That is: the convention, its version and parameters, and of every utterance
  all that the manifest says, the size of its file and when it was changed.

  Raises:
    audio.AudioError: if a file is missing.
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
    path = utterance.path
    try:
      status = path.stat()
    except OSError as error:
      raise audio.AudioError(
        f'{path}: no such file ({error.strerror}); check the path and the '
        'audio directory.'
      ) from error
    if path.is_relative_to(manifest.root):
      path = path.relative_to(manifest.root)
    row = {
      **dataclasses.asdict(utterance),
      'path': path.as_posix(),
      'size': status.st_size,
      'changed': status.st_mtime_ns,
    }
    digest.update(json.dumps(row, sort_keys=True).encode())
  return digest.hexdigest()[:8]


def _print(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def _ignore(text: str) -> None:
  del text


def _twins(
  store: pathlib.Path,
  features: features_lib.Convention,
  data_dir: os.PathLike[str] | str,
) -> list[pathlib.Path]:
  """Other stores of the corpus with the same features and parameters."""
  return [
    path
    for path, info in _stores(data_dir, store.parents[1].name, damaged='skip')
    if path != store
    and info['features'] == features.name
    and info['parameters'] == features.parameters()
  ]


def _stores(
  data_dir: os.PathLike[str] | str, corpus: str, damaged: str = 'raise'
) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
  """The prepared stores of a corpus: path and store.json."""
  root = pathlib.Path(data_dir).expanduser().absolute() / corpus
  for path in sorted(root.glob(f'[!.]*-*/{VERSION_FOLDER}/store.json')):
    try:
      info = json.loads(path.read_text('utf-8'))
      content = {'features': info['features'], 'parameters': info['parameters']}
      if not isinstance(content['parameters'], dict):
        raise TypeError('its parameters are no table')
    except (ValueError, KeyError, TypeError) as error:
      if damaged == 'skip':
        continue
      raise StoreError(
        f'{path} is damaged ({error}); delete {path.parents[1]} and prepare '
        'the corpus again.'
      ) from error
    yield path.parent, {**info, **content}


def _describe(
  stores: list[tuple[pathlib.Path, dict[str, Any]]],
  only: list[pathlib.Path] | None = None,
) -> str:
  """Stores one a line: the path and the parameters that a user chooses."""
  return '\n'.join(
    f'  {path}  ({info["features"]}'
    + ''.join(
      f', {name}={info["parameters"][name]}'
      for name in ('signal_length', 'layer', 'weights')
      if name in info['parameters']
    )
    + f', {info.get("count")} utterances)'
    for path, info in stores
    if only is None or path in only
  )
