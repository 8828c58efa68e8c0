"""From the names in a config to a store: which one, or what to do."""

import json
import shlex

import numpy as np
import pytest

from configs import dsnet
from data_prep import store
from jaxser.data import opening

HEAD = (
  'id path label speaker gender text split duration valence arousal dominance'
)


def write_store(
  data_dir, corpus, mark, labels=('angry', 'sad'), shard=b'x', **more
):
  """Writes what a store has for those who only look for it."""
  path = data_dir / corpus / f'kaldi16k-{mark}' / '1.0.0'
  path.mkdir(parents=True)
  rows = [
    f'u{i}\t{mark}/u{i}.wav\t{label}\ts{i}\t\t\t\t1.5\t\t\t'
    for i, label in enumerate(labels)
  ]
  text = '\n'.join([HEAD.replace(' ', '\t'), *rows])
  (path / 'manifest.tsv').write_text(f'{text}\n', 'utf-8', 'surrogateescape')
  (path / 'c-utterances.tfrecord-00000-of-00001').write_bytes(shard)
  info = {
    'corpus': corpus,
    'classes': ['angry', 'sad'],
    'count': len(labels),
    'features': 'kaldi16k',
    'parameters': {'bins': 80, **more},
    'fingerprint': mark,
  }
  (path / 'store.json').write_text(json.dumps(info))
  return path


def config_of(data_dir, arg='corpus=my_corpus'):
  config = dsnet.get_config(arg)
  config.data_dir = str(data_dir)
  return config


def test_stores_of_equal_content_are_one(tmp_path):
  first = write_store(tmp_path, 'my_corpus', 'aaaa')
  write_store(tmp_path, 'my_corpus', 'bbbb')  # Other paths, nothing else.
  config = config_of(tmp_path)
  assert opening.find(config, 'my_corpus') == first
  corpus = opening.open_corpus(config)
  assert (corpus.name, corpus.table.paths[1]) == ('my_corpus', 'aaaa/u1.wav')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'bins': 40}, r'differ in bins \(80 and 40\)'),
    ({'labels': ('angry', 'angry')}, r'differ in labels of their manifest'),
    ({'labels': ('sad',)}, r'differ in ids of their manifest'),
    ({'shard': b'y'}, r'differ in their audio'),
  ],
)
def test_several_stores_name_what_differs(tmp_path, changes, message):
  first = write_store(tmp_path, 'my_corpus', 'aaaa')
  second = write_store(tmp_path, 'my_corpus', 'bbbb', **changes)
  config = config_of(tmp_path)
  with pytest.raises(store.StoreError, match=message) as caught:
    opening.find(config, 'my_corpus')
  assert f'{first}, {second}' in str(caught.value)
  if 'bins' in changes:
    config.features.bins = 40
    assert opening.find(config, 'my_corpus') == second


def test_an_unknown_name_lists_what_is_prepared(tmp_path):
  folder = tmp_path / 'my data'
  write_store(folder, 'my_corpus', 'aaaa')
  write_store(folder, 'emodb', 'aaaa')
  with pytest.raises(
    store.NotPreparedError,
    match=r"'my_corpsu' is .* prepared are emodb, my_corp",
  ) as caught:
    opening.find(config_of(folder), 'my_corpsu')
  # The command is one of a shell, whatever the folder is called.
  words = shlex.split(caught.value.command)
  assert words[:4] == ['python', '-m', 'data_prep', '--corpus=manifest']
  assert words[-2:] == ['--features=kaldi16k', f'--data_dir={folder}']
  assert '--name=my_corpsu' in words


def test_across_corpora_all_that_is_missing_is_named(tmp_path):
  config = config_of(tmp_path, 'cross_corpus,train=emodb,test=savee')
  with pytest.raises(store.StoreError) as caught:
    opening.open_corpus(config)
  for name in ('emodb', 'savee'):
    assert f'data_prep --corpus={name} --audio_dir=DIR' in str(caught.value)


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path):
  path = write_store(tmp_path, 'my_corpus', 'aaaa')
  table = path / 'manifest.tsv'
  table.write_bytes(table.read_bytes().replace(b'\nu1\t', b'\n\xc9\xfa  1\t'))
  corpus = opening.open_corpus(config_of(tmp_path))
  assert corpus.table.ids[1].encode('utf-8', 'surrogateescape') == (
    b'\xc9\xfa  1'
  )


def test_a_damaged_store_is_named(tmp_path):
  path = write_store(tmp_path, 'my_corpus', 'aaaa')
  for text in ('[]', '{', '{"corpus": "x"}'):
    (path / 'store.json').write_text(text)
    with pytest.raises(store.StoreError, match=f'{path} has a store.json'):
      opening.find(config_of(tmp_path), 'my_corpus')


def test_utterances_without_a_class_are_left_out(tmp_path, capsys):
  write_store(tmp_path, 'my_corpus', 'aaaa', labels=('sad', '', 'angry'))
  corpus = opening.open_corpus(config_of(tmp_path))
  np.testing.assert_array_equal(corpus.table.labels, [1, 0])
  assert '1 of 3 utterances have no class' in capsys.readouterr().err
