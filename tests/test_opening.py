"""From the names in a config to a corpus, or what to do first."""

import json

import numpy as np
import pytest

from configs import dsnet
from data_prep import manifest, store
from jaxser.engine import opening


def write_store(data_dir, corpus, labels=('angry', 'sad')):
  """Writes what a store has for those who only look for it."""
  path = data_dir / corpus / 'kaldi16k-aaaa' / '1.0.0'
  path.mkdir(parents=True)
  rows = ['\t'.join(manifest.COLUMNS)]
  for i, label in enumerate(labels):
    rows.append(f'u{i}\taaaa/u{i}.wav\t{label}\ts{i}\t\t\t\t1.5\t\t\t')
  (path / 'manifest.tsv').write_text('\n'.join([*rows, '']))
  info = {'corpus': corpus, 'classes': ['angry', 'sad'], 'count': len(labels)}
  info |= {'features': 'kaldi16k', 'parameters': {'bins': 80}}
  (path / 'store.json').write_text(json.dumps(info))
  return path


def open_corpus(data_dir, arg='corpus=my_corpus'):
  config = dsnet.get_config(arg)
  config.data_dir = str(data_dir)
  return opening.open_corpus(config)


def test_a_corpus_of_ones_own_opens_by_its_name(tmp_path, capsys):
  write_store(tmp_path, 'my_corpus', labels=('sad', '', 'angry'))
  corpus = open_corpus(tmp_path)
  assert (corpus.name, corpus.table.paths[1]) == ('my_corpus', 'aaaa/u2.wav')
  np.testing.assert_array_equal(corpus.table.labels, [1, 0])
  assert '1 of 3 utterances have no class' in capsys.readouterr().err


def test_across_corpora_all_that_is_missing_is_named(tmp_path):
  with pytest.raises(store.StoreError) as caught:
    open_corpus(tmp_path, 'cross_corpus,train=emodb,test=savee')
  for name in ('emodb', 'savee'):
    assert f'data_prep --corpus={name} --audio_dir=DIR' in str(caught.value)


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path):
  path = write_store(tmp_path, 'my_corpus')
  table = path / 'manifest.tsv'
  table.write_bytes(table.read_bytes().replace(b'\nu1\t', b'\n\xc9\xfa  1\t'))
  name = open_corpus(tmp_path).table.ids[1]
  assert name.encode('utf-8', 'surrogateescape') == b'\xc9\xfa  1'
