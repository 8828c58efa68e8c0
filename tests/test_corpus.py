"""A prepared corpus: opened by name, its rows, damage, two of them joined."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from configs import dsnet
from data_prep import manifest, prepare, store
from jaxser.data import corpus as corpus_lib
from jaxser.engine import opening
from tests import fakes


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  """The demo corpus in a store that tests copy before they break it."""
  options = {'features': 'kaldi16k', 'num_workers': 1, 'report': str}
  options['data_dir'] = tmp_path_factory.mktemp('data')
  return prepare.prepare_corpus('demo', **options)


@pytest.fixture
def broken(stored, tmp_path):
  return shutil.copytree(stored, tmp_path / '1.0.0')


def test_rows_come_in_published_order_whatever_the_order_of_reading(stored):
  import tensorflow_datasets as tfds

  corpus = corpus_lib.open_store(stored)
  table = corpus.table
  assert corpus.classes == ('angry', 'fear', 'happy', 'neutral', 'sad')
  assert corpus.vad_range == (1.0, 7.0)
  assert np.bincount(table.labels).tolist() == [48] * 5
  builder = tfds.builder_from_directory(str(stored))
  whole = list(builder.as_dataset(split='utterances').as_numpy_iterator())
  features, lengths = corpus.load(100)
  assert features.shape == (240, 100, 80)
  for row in (239, 0, 17, 100, 17):
    value, stored = corpus.read(row), whole[row]
    np.testing.assert_array_equal(value, stored['features'])
    assert table.ids[row] == stored['id'].decode()
    assert table.labels[row] == stored['label']
    np.testing.assert_allclose(table.vad[row], stored['vad'], rtol=1e-6)
    assert lengths[row] == min(len(value), 100)
    np.testing.assert_array_equal(features[row, : lengths[row]], value[:100])
    assert not features[row, lengths[row] :].any()


def test_damage_is_found_and_named(broken):
  (path,) = broken.glob('*.tfrecord-*')
  data = path.read_bytes()

  def refused(message):
    corpus = corpus_lib.open_store(broken)
    with pytest.raises(corpus_lib.StoreError, match=message) as caught:
      [corpus.read(row) for row in range(240)]
    assert str(broken) in str(caught.value)
    assert 'python -m data_prep' in str(caught.value)

  flipped = bytearray(data)
  flipped[len(data) // 2] ^= 1
  path.write_bytes(flipped)
  refused(r'damaged record \(row \d+\) at byte \d+')
  flipped[: len(data) // 2] = data[: len(data) // 2]
  flipped[3] ^= 1  # Of the length of the first record.
  path.write_bytes(flipped)
  refused(f'{path.name}, which is cut off')
  for removed in (3, 5000):
    path.write_bytes(data[:-removed])
    refused(f'{path.name}, which is cut off')
  path.unlink()
  refused('0 records of 240 utterances')


def test_manifest_and_store_must_agree(broken, tmp_path):
  with pytest.raises(corpus_lib.StoreError, match=r'python -m data_prep'):
    corpus_lib.open_store(tmp_path / 'nothing')
  path = broken / 'store.json'
  info = json.loads(path.read_text())
  for change, message in (
    ({'count': 241}, r'has 240 utterances in manifest\.tsv and 241 in'),
    ({'classes': ['angry', 'fear']}, r"does not list: \['happy'"),
  ):
    path.write_text(json.dumps({**info, **change}))
    with pytest.raises(corpus_lib.StoreError, match=message):
      corpus_lib.open_store(broken)


def test_joined_corpora_keep_shared_classes_and_unique_names():
  first = fakes.corpus(classes=5)
  first.table.labels[3] = -1
  other = corpus_lib.select(first, np.arange(len(first.table))[::-1])
  names = ('angry', 'fear', '-', 'neutral', 'sad')
  other = dataclasses.replace(other, name='other', classes=names)
  both = corpus_lib.join(first, other)
  assert both.classes == ('angry', 'fear', 'neutral', 'sad')
  assert np.bincount(both.table.labels).tolist() == [14, 16, 16, 16]
  assert len(set(both.table.ids.tolist())) == len(both.table) == 62
  assert both.vad_range is None
  for row in (5, 40):  # One of each part.
    part, name = both.table.ids[row].split('/')
    assert part == ('fake', 'other')[row > 30]
    at = first.table.ids.tolist().index(name)
    np.testing.assert_array_equal(both.read(row), first.read(at))
    label = first.classes[first.table.labels[at]]
    assert both.classes[both.table.labels[row]] == label

  both = corpus_lib.join(first, other, task='regression')
  assert len(both.table) == 2 * len(first.table)
  assert both.table.labels[3] == -1
  assert both.vad_range == (1.0, 7.0)


def test_corpora_that_do_not_fit_are_not_joined():
  first, other = fakes.corpus(), dataclasses.replace(fakes.corpus(), name='o')
  narrow = dataclasses.replace(other, vad_range=(1.0, 5.0))
  alone = dataclasses.replace(other, classes=('angry', 'x', 'y'))
  stores = {'o': {**other.stores['fake'], 'parameters': {'low': 20.0}}}
  changed = dataclasses.replace(other, stores=stores)
  for second, task, message in (
    (narrow, 'regression', r'scale \(1\.0, 7\.0\) in fake.*5\.0\) in o'),
    (alone, 'classification', r'share 1 classes \(angry\)'),
    (changed, 'classification', 'different parameters'),
  ):
    with pytest.raises(corpus_lib.StoreError, match=message):
      corpus_lib.join(first, second, task)


def test_waveforms_are_normalised_by_the_training_split_where_there_is_one():
  corpus = fakes.corpus()
  assert corpus_lib.normalization(corpus, 'official') is None
  info = corpus.stores['fake']
  info['statistics'] = {'mean': 1.0, 'std': 2.0}
  assert corpus_lib.normalization(corpus, 'official') == (1, 2)
  info['statistics_by_split'] = {'train': {'mean': 3.0, 'std': 4.0}}
  protocols = ('official', 'published', 'speaker_independent', 'all')
  found = [corpus_lib.normalization(corpus, name) for name in protocols]
  assert found == [(3, 4), (3, 4), (1, 2), (1, 2)]


def write_store(data_dir, corpus, labels=('angry', 'sad')):
  """Writes what a store has for those who only look for it."""
  path = data_dir / corpus / 'kaldi16k-aaaa/1.0.0'
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
