"""EmoBox's folds: real ones of prepared corpora, and all that may be wrong."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest

from jaxser.core.errors import UserError
from jaxser.data import corpus as corpus_lib
from jaxser.data import protocols
from tests import fakes

LABELS = {'Anger': 'Angry', 'fear': 'Fear', 'HAP': 'Happy'}


def write_folds(folder, corpus, folds=3, skip=None, shared=True):
  """Writes folds of a synthetic corpus in EmoBox's format."""
  table = corpus.table
  for n in range(1, folds + 1):
    tested = np.arange(len(table)) % folds == n - 1
    if not shared:
      tested = np.isin(table.speakers, [f's{n - 1}'])
    for split, rows in (('train', ~tested), ('test', tested)):
      part = table.take(rows)
      lines = [
        json.dumps({'wav': f'downloads/{path}', 'emo': [*LABELS][label]})
        for path, label in zip(part.paths, part.labels, strict=True)
        if (n, path) != skip
      ]
      path = folder / f'fold_{n}' / f'fake_{split}_fold_{n}.jsonl'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text('\n'.join(lines) + '\n')
      path.with_name(f'fake_{split}_fold{n}.jsonl').write_text('older copy')
  (folder / 'label_map.json').write_text(json.dumps(LABELS))
  return folder


@pytest.fixture
def corpus():
  """Files that are alike in all but the last folders, as in CASIA."""
  fake = fakes.corpus(speakers=4, repeats=5)
  table, names = fake.table, np.array(fake.classes)[fake.table.labels]
  columns = zip(table.speakers, names, table.texts, strict=True)
  paths = np.array(['/'.join(parts) + '.wav' for parts in columns])
  return dataclasses.replace(
    fake, table=dataclasses.replace(table, paths=paths)
  )


def make_folds(corpus, folder, **more):
  return protocols.make_folds(corpus, 'emobox', emobox_dir=str(folder), **more)


def test_shared_speakers_are_told_and_dev_holds_utterances_of_every_class(
  corpus, tmp_path, capsys
):
  write_folds(tmp_path / 'fake', corpus)
  folds = make_folds(corpus, tmp_path)  # The folder above will do.
  assert '4 of 4 speakers are both trained on and' in capsys.readouterr().err
  for fold in folds:
    np.testing.assert_array_equal(fold.test, np.arange(fold.number, 60, 3))
    counts = np.bincount(corpus.table.labels[fold.dev], minlength=3)
    assert counts.tolist() == [2, 2, 2]  # Of 13 or 14 each.
    assert len(fold.train) + len(fold.dev) == 40
  contents = []
  for seed in (0, 0, 1):
    folds = make_folds(corpus, tmp_path, seed=seed)
    contents += [protocols.folds_to_json(folds, corpus, protocol='emobox')]
  assert contents[0] == contents[1] != contents[2]
  assert contents[0]['shared_speakers'] == ['s0', 's1', 's2', 's3']
  whole = make_folds(corpus, tmp_path, emobox_dev=False)
  assert [(len(f.train), len(f.dev)) for f in whole] == [(40, 0)] * 3


def test_a_speaker_develops_where_none_is_on_both_sides(
  corpus, tmp_path, capsys
):
  write_folds(tmp_path, corpus, folds=4, shared=False)
  for fold in make_folds(corpus, tmp_path):
    (held,) = set(corpus.table.speakers[fold.dev])
    assert held not in corpus.table.speakers[fold.train]
    assert len(fold.dev) == 15
  assert '0 of 4 speakers are both trained on and' in capsys.readouterr().err


def test_folds_that_do_not_fit_are_refused(corpus, tmp_path):
  def refused(message):
    with pytest.raises(UserError, match=message):
      make_folds(corpus, tmp_path)

  refused('emobox_dir=.*: has no fold_1 for fake')
  write_folds(tmp_path, corpus, skip=(2, 's1/fear/t0.wav'))
  refused("fold_2 lacks 1 utterances of the other folds, the first is 's1-fear")
  write_folds(tmp_path, corpus)
  path = tmp_path / 'fold_3' / 'fake_test_fold_3.jsonl'
  text = path.read_text()
  for broken, message in (
    (text.replace('s0/', 's9/'), r"\d of 20 utterances are not in fake, .* 'd"),
    (text.replace('"HAP"', '"fear"'), ".* is 'fear', which is 'fear'; in fake"),
    (text[: len(text) // 2], r'is no fold of EmoBox \(JSONDecodeError'),
  ):
    path.write_text(broken)
    refused(f'test_fold_3.jsonl: {message}')
  path.unlink()
  refused('fold_3.jsonl: is no fold of EmoBox')


@pytest.mark.parametrize(
  ('name', 'folds', 'shared'),
  [('emodb', 5, 10), ('ravdess', 6, 0), ('emovo', 6, 0), ('savee', 4, 0)],
)
def test_published_folds_of_prepared_corpora(name, folds, shared):
  data = pathlib.Path(os.environ['JAXSER_DATA_DIR'])
  boxes = pathlib.Path(os.environ.get('JAXSER_EMOBOX_DIR', '/nowhere'))
  stores = sorted(data.glob(f'{name}/librosa22k-*/1.0.0'))
  if not stores or not boxes.is_dir():
    pytest.skip(f'needs {name} in $JAXSER_DATA_DIR and $JAXSER_EMOBOX_DIR')
  corpus = corpus_lib.open_store(stores[0])
  made = make_folds(corpus, boxes)
  assert len(made) == folds
  tested = np.sort(np.concatenate([fold.test for fold in made]))
  np.testing.assert_array_equal(tested, np.arange(len(corpus.table)))
  assert len(protocols.shared_speakers(made, corpus.table)) == shared
  assert all(len(fold.dev) for fold in made)
