"""From the names in a config to a corpus; makes the demo corpus if asked."""

import filecmp
import itertools
import os
import pathlib
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

import data_prep
from data_prep import corpora, prepare, store
from jaxser.data import corpus as corpus_lib
from jaxser.data.corpus import Corpus, StoreError


def data_dir(config: ml_collections.ConfigDict) -> pathlib.Path:
  """Returns config.data_dir, or the folder that data_prep writes to."""
  folder = pathlib.Path(config.data_dir or data_prep.default_data_dir())
  return folder.expanduser()


def open_corpus(config: ml_collections.ConfigDict) -> Corpus:
  """Opens the corpus of the config; two joined for a cross-corpus run.

  The demo corpus is synthesised and prepared on first use. Where classes are
  predicted, utterances without one are left out, and it is said how many.

  Raises:
    StoreError: if corpora are not prepared; the message gives the command of
      each. Or if two cannot be joined.
  """
  # Looking for a store needs no JAX.
  from jaxser.systems import registry

  task = registry.task(config)
  opened, missing = [], []
  for name in filter(None, (config.corpus, config.test_corpus)):
    try:
      opened.append(_open(config, name))
    except store.NotPreparedError as error:
      missing.append(error)
  if missing:
    raise StoreError('\n'.join(map(str, missing)))
  if task == 'classification':
    opened = [_labelled(corpus) for corpus in opened]
  return corpus_lib.join(*opened, task=task) if opened[1:] else opened[0]


def _open(config: ml_collections.ConfigDict, name: str) -> Corpus:
  if name == 'demo' and config.features.name in prepare.RECIPES:
    path = prepare.prepare_corpus(
      name,
      features=config.features.name,
      data_dir=data_dir(config),
      signal_length=config.features.get('signal_length', 0) or None,
      resampler=config.features.get('resampler', '') or None,
      report=_say,
    )
  else:
    path = find(config, name)
  return corpus_lib.open_store(path)


def _labelled(corpus: Corpus) -> Corpus:
  """Returns the corpus without utterances that have no class."""
  rows = np.flatnonzero(corpus.table.labels >= 0)
  left = len(corpus.table) - len(rows)
  # A corpus without any class is refused by the system, which can say why.
  if not left or not corpus.classes:
    return corpus
  _say(
    f'{corpus.name}: {left} of {len(corpus.table)} utterances have no class; '
    'they are left out.'
  )
  return corpus_lib.select(corpus, rows, corpus.name)


def find(config: ml_collections.ConfigDict, name: str) -> pathlib.Path:
  """Returns the prepared store of one of the config's corpora.

  Stores of equal content (parameters, utterances and features) are one store.

  Raises:
    NotPreparedError: there is none; with the command that prepares it.
    StoreError: there are several, and the message says in what they differ; or
      one is damaged.
  """
  # Zero means: whatever the one store that is there was prepared with.
  wanted = {key: value for key, value in config.features.items() if value}
  features, folder = wanted.pop('name'), data_dir(config)
  fitting = [
    path
    for path, info in _stores(folder / name)
    if info['features'] == features
    and wanted.items() <= info['parameters'].items()
  ]
  if not fitting:
    raise _not_prepared(folder, name, features, wanted)
  first, *others = fitting
  for other in others:
    difference = _difference(first, other)
    if difference:
      raise StoreError(
        f'{len(fitting)} stores of {name} fit and differ in {difference}: '
        f'{", ".join(map(str, fitting))}. Name a parameter that differs, as in '
        '--config.features.NAME=VALUE; prepare a corpus of your own under a '
        'name of its own (--name=NAME); or delete all but one.'
      )
  return first


def _stores(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, Any]]:
  """Yields version directory and store.json of each store of a corpus."""
  for path in sorted(folder.glob('[!.]*-*/*/store.json')):
    yield path.parent, corpus_lib.read_info(path.parent)


def _difference(first: pathlib.Path, second: pathlib.Path) -> str:
  """Returns in what two stores differ, '' where their content is equal."""
  parameters = [corpus_lib.read_info(p)['parameters'] for p in (first, second)]
  for key in parameters[0] | parameters[1]:
    one, two = (each.get(key) for each in parameters)
    if one != two:
      return f'{key} ({one} and {two})'
  tables = [corpus_lib.open_store(path).table for path in (first, second)]
  for column in ('ids', 'labels', 'speakers', 'splits', 'vad', 'durations'):
    one, two = (getattr(table, column).tolist() for table in tables)
    if str(one) != str(two):  # As text, NaN equals NaN.
      return f'{column} of their manifest.tsv'
  shards = [sorted(path.glob('*.tfrecord-*')) for path in (first, second)]
  same = [
    filecmp.cmp(one, two, shallow=False)
    for one, two in itertools.zip_longest(*shards, fillvalue=os.devnull)
  ]
  return '' if all(same) else 'their audio'


def _not_prepared(
  folder: pathlib.Path, name: str, features: str, wanted: Mapping[str, Any]
) -> store.NotPreparedError:
  """Returns what is missing, what there is, and the command that prepares it."""
  parameters = [f'{key}={value}' for key, value in wanted.items()]
  there = [f'{p} ({info["features"]})' for p, info in _stores(folder / name)]
  words = ['python', '-m', 'data_prep', f'--corpus={name}', '--audio_dir=DIR']
  if there or name in corpora.CORPORA:
    asked = ', '.join([features, *parameters])
    message = f'no store of {name} with {asked} in {folder}. There is '
    message += f'{", ".join(there) or "none yet"}.'
  else:
    words[3:] = ['--corpus=manifest', '--manifest=TABLE', f'--name={name}']
    names = [p.name for p in folder.glob('*') if next(_stores(p), None)]
    message = f'no corpus {name!r} is prepared in {folder}; prepared are '
    message += f'{", ".join(sorted(names)) or "none"}.'
  words.append(f'--features={features}')
  words += ['--weights=DIR'] if features == 'wavlm' else []
  words += [f'--{text}' for text in parameters]
  command = shlex.join([*words, f'--data_dir={folder}'])
  return store.NotPreparedError(message, command)


def _say(line: str) -> None:
  print(line, file=sys.stderr)
