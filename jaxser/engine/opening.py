"""From the names in a config to a corpus; makes the demo corpus if asked."""

import pathlib
import sys

import numpy as np

import data_prep
from data_prep import prepare, store
from jaxser.core.config import Config
from jaxser.data import corpus as corpus_lib
from jaxser.data.corpus import Corpus, StoreError


def data_dir(config: Config) -> pathlib.Path:
  """Returns config.data_dir, or the folder that data_prep writes to."""
  folder = pathlib.Path(config.data_dir or data_prep.default_data_dir())
  return folder.expanduser()


def open_corpus(config: Config) -> Corpus:
  """Opens the corpus, or two joined; leaves out what lacks a class."""
  # Looking for a store needs no JAX.
  from jaxser.systems import registry

  task, missing = registry.task(config), []
  opened: list[Corpus] = []
  for name in filter(None, (config.corpus, config.test_corpus)):
    try:
      opened.append(_open(config, name))
    except store.NotPreparedError as error:
      missing.append(error)
  if missing:
    raise StoreError('\n'.join(map(str, missing)))
  if task == 'classification':
    opened = [_labelled(corpus) for corpus in opened]
  return (
    corpus_lib.join(opened[0], opened[1], task) if opened[1:] else opened[0]
  )


def _open(config: Config, name: str) -> Corpus:
  if name != 'demo' or config.features.name not in prepare.RECIPES:
    return corpus_lib.open_store(find(config, name))
  path = prepare.prepare_corpus(
    name,
    features=config.features.name,
    data_dir=data_dir(config),
    signal_length=config.features.get('signal_length', 0) or None,
    resampler=config.features.get('resampler', '') or None,
    report=_say,
  )
  return corpus_lib.open_store(path)


def _labelled(corpus: Corpus) -> Corpus:
  rows = np.flatnonzero(corpus.table.labels >= 0)
  left = len(corpus.table) - len(rows)
  # A corpus without any class is refused by the system, which can say why.
  if not left or not corpus.classes:
    return corpus
  _say(
    f'{corpus.name}: {left} of {len(corpus.table)} utterances have no class; '
    'they are left out.'
  )
  return corpus_lib.select(corpus, rows)


def find(config: Config, name: str) -> pathlib.Path:
  """Returns the prepared store of one of the config's corpora."""
  # Zero means: whatever the one store that is there was prepared with.
  wanted = {key: value for key, value in config.features.items() if value}
  features = wanted.pop('name')
  return store.find_store(data_dir(config), name, features, **wanted)


def _say(line: str) -> None:
  print(line, file=sys.stderr)
