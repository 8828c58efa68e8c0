"""Parsers of corpora whose labels lie in files of their own, and of CREMA-D."""

import sys
import types
import wave

import numpy as np
import pytest

from data_prep import corpora
from data_prep.corpora import crema_d
from data_prep.tables import CorpusError
from tests.trees import emotale_table, touch


def read(name, root, **options):
  """The manifest of what is there, and what differs from the published."""
  return corpora.read(name, root, allow_incomplete=True, **options)[1:]


def rows_of(manifest, *names):
  return [tuple(getattr(u, n) for n in names) for u in manifest.utterances]


def refused(message, name, root, **options):
  with pytest.raises(CorpusError, match=message):
    corpora.read(name, root, **options)


def test_emotale_averages_three_annotators(tmp_path):
  ratings = {'a1_V': '1.5', 'a2_V': '2.5', 'a3_V': '1', 'a1_A': '4.5'}
  emotale_table(tmp_path, {'DK_001_A_1': ratings})
  touch(tmp_path, 'wav/DK_001_A_1.wav', 'wav/EN_016_S_5.wav')
  manifest, _ = read('emotale', tmp_path)
  assert manifest.utterances[0].vad == pytest.approx((5 / 3, 3.5, 3.0), 1e-12)
  assert rows_of(manifest, 'gender', 'text', 'label', 'speaker') == [
    ('female', 'DK_1', 'angry', '001'),
    ('female', 'EN_5', 'sad', '016'),
  ]
  assert manifest.vad_range == (1.0, 5.0)
  # Valence: (1.5, 2.5, 1) and (3, 3, 3), by hand; dominance never varies.
  pairs = [2 * 0.75 * 0.25, 2 * 0.75 * 1.0, 2 * 0.25 * 1.0]
  spreads = [0.5625 + 0.0625 + 0.25, 0.5625 + 1 + 0.0625, 0.0625 + 1 + 0.5625]
  expected = np.mean(np.divide(pairs, spreads))
  assert manifest.annotators['ccc_valence'] == pytest.approx(expected)
  assert manifest.annotators['count'] == 3
  assert manifest.annotators['ccc_dominance'] is None
  assert manifest.annotators['ccc_mean'] is None


IEMOCAP_TURNS = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
C-F1:\tNeutral;\t(curious)
A-E3:\tval 3; act 2; dom  2;\t()
A-E4:\tval 2; act 3; dom  3;\t(mildly aggravated but staying polite)
A-F1:\tval 5; act 5; dom  5;\t()

[10.0100 - 11.3925]\tSes01F_impro01_M001\texc\t[5.5000, 4.0000, 1.5000]
A-E3:\tval 5; act 4; dom  3;\t()
A-E4:\tval 6; act 4; dom  ;\t()

[14.8872 - 18.0175]\tSes01F_impro01_M002\thap\t[4.0000, 3.0000, 3.0000]

[19.2900 - 20.7875]\tSes01F_impro01_F003\txxx\t[2.5000, 3.0000, 3.0000]
A-E3:\tval 1; act 1; dom  1;\t()

[21.3257 - 24.7400]\tSes01F_impro01_F004\tfru\t[2.5000, 3.5000, 3.5000]
"""


def iemocap_tree(root):
  """A dialogue of five turns; returns its table."""
  dialog = root / 'Session1' / 'dialog'
  (dialog / 'EmoEvaluation' / 'Categorical').mkdir(parents=True)
  (dialog / 'transcriptions').mkdir()
  table = dialog / 'EmoEvaluation' / 'Ses01F_impro01.txt'
  table.write_text(IEMOCAP_TURNS, encoding='utf-8')
  # Hidden twins and the folders of single evaluators are not tables of turns.
  (table.parent / '._Ses01F_impro01.txt').write_bytes(b'\x00\x05\x16\x07')
  other = table.parent / 'Categorical' / 'Ses01F_impro01_e2_cat.txt'
  other.write_text('Ses01F_impro01_F000 :Neutral state; ()\n', 'utf-8')
  (dialog / 'transcriptions' / 'Ses01F_impro01.txt').write_text(
    'Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n'
    'Ses01F_impro01_M001 [010.0100-011.3925]: Yeah?\n'
  )
  sentences = root / 'Session1/sentences/wav/Ses01F_impro01'
  turns = ('F000', 'M001', 'M002', 'F003', 'F004')
  touch(sentences, *(f'Ses01F_impro01_{turn}.wav' for turn in turns))
  touch(dialog / 'wav', 'Ses01F_impro01.wav')
  return table


def test_iemocap(tmp_path):
  iemocap_tree(tmp_path)
  manifest, difference = read('iemocap', tmp_path)
  assert rows_of(manifest, 'id', 'label', 'speaker', 'gender', 'text') == [
    ('Ses01F_impro01_M001', 'happy', 'Ses01M', 'male', 'Yeah?'),
    ('Ses01F_impro01_M002', 'happy', 'Ses01M', 'male', ''),
    ('Ses01F_impro01_F000', 'neutral', 'Ses01F', 'female', 'Excuse me.'),
  ]
  assert [u.vad for u in manifest.utterances] == [
    (5.0, 4.0, 3.0),  # Off the scale or empty: left out.
    (4.0, 3.0, 3.0),  # No evaluator: the means of the release.
    (2.5, 2.5, 2.5),  # The speaker's own rating (A-F1) does not count.
  ]
  assert manifest.notes == ('turns of other classes left out: 1 fru, 1 xxx',)
  assert 'class angry: 0 of 1,103' in difference
  next(tmp_path.rglob('*_M002.wav')).unlink()
  difference = read('iemocap', tmp_path)[1]
  assert 'missing (1):\n    Ses01F_impro01_M002' in difference


IMPROV_LABELS = """\
UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:3.000000; V:3.500000; D:2.000000 ; N:4.5;
\tRater1; Neutral; ; A:3.000000; V:3.000000; D:3.000000; N:4.000000;
UTD-IMPROV-S08A-F05M-P-FM01.avi; H; A:NaN; V:4.000000; D:3.000000 ; N:NaN;
UTD-IMPROV-S02S-M03-T-MF10.avi; S; A:1.000000; V:1.500000; D:2.500000 ; N:4.0;
UTD-IMPROV-S02S-M03-T-MF2.avi; S; A:1.000000; V:1.500000; D:2.500000 ; N:4.0;
UTD-IMPROV-S03H-M03-S-MF04.avi; X; A:1.000000; V:1.500000; D:2.500000 ; N:4.0;
UTD-IMPROV-S03H-M03-S-MF05.avi; O; A:1.000000; V:1.500000; D:2.500000 ; N:4.0;
"""
IMPROV_FILES = (
  'session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav',
  'session5/S08A/P/MSP-IMPROV-S08A-F05M-P-FM01.wav',
  'session3/S02S/T/MSP-IMPROV-S02S-M03-T-MF10.wav',
  'session3/S02S/T/MSP-IMPROV-S02S-M03-T-MF2.wav',
  'session3/S03H/S/MSP-IMPROV-S03H-M03-S-MF04.wav',
)


@pytest.mark.parametrize('name', ['Evalution.txt', 'Evaluation.txt'])
def test_msp_improv(tmp_path, name):
  improv_tree(tmp_path, name)
  manifest, difference = read('msp_improv', tmp_path)
  found = rows_of(manifest, 'id', 'label', 'speaker', 'gender', 'text', 'vad')
  assert [(row[0][11:], *row[1:]) for row in found] == [
    ('S08A-F05M-P-FM01', 'happy', 'F05', 'female', '', (4.0, None, 3.0)),
    ('S01A-F01-P-FM01', 'neutral', 'F01', 'female', '', (3.5, 3.0, 2.0)),
    ('S02S-M03-T-MF2', 'sad', 'M03', 'male', 'S02', (1.5, 1.0, 2.5)),
    ('S02S-M03-T-MF10', 'sad', 'M03', 'male', 'S02', (1.5, 1.0, 2.5)),
  ]
  left_out = 'turns left out (O other, X no agreement): 1 O, 1 X'
  assert manifest.notes == (left_out,)
  assert 'class happy: 1 of 2,644' in difference


PODCAST = """\
FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set
MSP-PODCAST_0001_0010.wav,N,2.2,4.0,2.6,30,Male,Test1
MSP-PODCAST_0001_0009.wav,N,3.777778,3.555556,3.777778,39,Male,Test2
MSP-PODCAST_0002_0001.wav,C,4.125,1.75,4.0,40,Female,Train
MSP-PODCAST_0002_0002.wav,O,3.0,3.5,4.0,40,Female,Development
MSP-PODCAST_0002_0003.wav,X,3.0,3.5,4.0,Unknown,Unknown,Train
"""


def podcast_tree(root):
  lines = PODCAST.splitlines()[1:]
  touch(root, *('Audios/' + line.split(',')[0] for line in lines))
  (root / 'Labels').mkdir()
  table = root / 'Labels' / 'labels_consensus.csv'
  table.write_text(PODCAST, 'utf-8')
  return table


def test_msp_podcast(tmp_path):
  podcast_tree(tmp_path)
  manifest, difference = read('msp_podcast', tmp_path)
  assert not difference
  found = rows_of(manifest, 'id', 'label', 'speaker', 'gender', 'split')
  assert [(row[0][12:], *row[1:]) for row in found] == [
    ('0002_0001', 'contempt', '40', 'female', 'train'),
    ('0001_0009', 'neutral', '39', 'male', 'test2'),
    ('0001_0010', 'neutral', '30', 'male', 'test'),
    ('0002_0002', '', '40', 'female', 'dev'),
  ]
  assert manifest.utterances[1].vad == (3.555556, 3.777778, 3.777778)
  assert manifest.vad_range == (1.0, 7.0)
  assert manifest.notes == ('rows left out (--rows=agreed): 1 X',)
  for rows, count in (('all', 5), ('classes', 3)):
    assert len(read('msp_podcast', tmp_path, rows=rows)[0].utterances) == count
  message = '--rows=some: is unknown; choose one'
  refused(message, 'msp_podcast', tmp_path, rows='some')


def improv_tree(root, name='Evalution.txt'):
  touch(root, *IMPROV_FILES)
  (root / name).write_text(IMPROV_LABELS, 'utf-8')
  return root / name


def emotale_tree(root):
  touch(root, 'wav/DK_001_A_1.wav', 'wav/DK_001_A_2.wav')
  emotale_table(root)
  return root / 'annotations.csv'


TREES = {'emotale': emotale_tree, 'iemocap': iemocap_tree}
TREES |= {'msp_improv': improv_tree, 'msp_podcast': podcast_tree}
# A line of EmoTale, and a rating.
ROW, X = 'DK_001_A_1.wav', ',3.0'
# What is replaced in the file of labels, by what, and what is said of it.
SLIPS = {
  'emotale': (
    (ROW + 12 * X + ',A', ROW + 12 * X + ',S', "is 'A' by its name and 'S' in"),
    (ROW + 7 * X, ROW + 6 * X + ',', 'its line in .* has no number'),
    # Its mean would be inside.
    (
      ROW + 7 * X,
      ROW + 6 * X + ',9',
      'a2_D 9, outside of the scale from 1 to 5',
    ),
    (ROW + 2 * X, ROW + X + ',nan', 'has a1_V nan, outside of the scale'),
    (ROW, 'DK_002_A_1.wav', 'has no line in'),
    ('a3_A', 'arousal', r'annotations\.csv.*a3_A'),
    ('', None, r'has no annotations\.csv'),
  ),
  'iemocap': (
    ('\tneu\t[2.5000, 2.5000, 2.5000]', '\tneu', 'cannot read .*impro01_F000'),
    ('_F003', '_F000', 'repeats Ses01F_impro01_F000, which is in'),
    ('Ses01F', 'nothing', 'none of its 1 files has a turn like'),
    ('', None, 'has no file like Session1/dialog/Emo'),
  ),
  'msp_improv': (
    ('V:3.5', 'V=', 'txt: cannot read line 1,'),
    ('S08A-F05M', 'S01A-F01', 'line 3 repeats MSP-IMPROV-S01A-F01-P-FM01'),
    ('', None, r'has no Evalution\.txt \(the labels\)'),
    ('-IMPROV-', '-', 'none of its 5 wav files is one of th'),
  ),
  'msp_podcast': (
    ('Split_Set', 'Split', "column 'Split_Set' is missing"),
    (',C,', ',Q,', "line 4 has EmoClass 'Q'"),
    ('4.125', '8.125', 'arousal 8.125 is outside the scale 1 to 7'),
    ('4.125', 'high', "0002_0001.wav has no number .*'high'"),
    ('0002_0002', '0002_0001', 'line 5 repeats MSP-PODCAST_0002_0001, which'),
    ('0002_0002', '0009_0001', r'missing \(1\):\n    MSP-PODCAST_0009_0001'),
    (',Male,Test2', ',"Male,Test2', 'line 3 cannot be read'),
  ),
}


@pytest.mark.parametrize(
  ('corpus', 'old', 'new', 'message'),
  [(corpus, *slip) for corpus, slips in SLIPS.items() for slip in slips],
)
def test_slips_in_files_of_labels_are_named(
  tmp_path, corpus, old, new, message
):
  path = TREES[corpus](tmp_path)
  text = path.read_text('utf-8')
  assert old in text
  path.unlink()
  if new is not None:
    path.write_text(text.replace(old, new), 'utf-8')
  options = {} if corpus == 'msp_podcast' else {'allow_incomplete': True}
  refused(message, corpus, tmp_path, **options)


def test_two_files_of_labels_are_one_too_many(tmp_path):
  improv_tree(tmp_path)
  touch(tmp_path, 'old/Evaluation.txt')
  refused(r'2 files could be Evalution\.txt', 'msp_improv', tmp_path)


@pytest.fixture
def fake_tfds(monkeypatch):
  """What the adapter uses of TFDS and its builder of CREMA-D."""
  module = types.ModuleType('tensorflow_datasets')
  module.calls, module.failing = [], False
  names = types.SimpleNamespace(int2str=lambda i: ('NEU', 'ANG')[i])
  info = types.SimpleNamespace(features={'label': names})
  speakers = {'train': b'1001', 'validation': b'1002', 'test': b'1003'}
  audio = np.arange(-5, 5, dtype=np.int64) * 100

  def as_dataset(split):
    for label in np.array([1, 0, 1]):
      yield {'speaker_id': speakers[split], 'label': label, 'audio': audio}
    if module.failing:
      raise OSError('the disk is gone')

  def builder(name, data_dir=None):
    module.calls.append((name, data_dir))
    return types.SimpleNamespace(
      download_and_prepare=lambda: None, as_dataset=as_dataset, info=info
    )

  module.builder, module.as_numpy = builder, lambda dataset: dataset
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', module)
  return module


def test_crema_d_from_tfds(tmp_path, fake_tfds):
  out = tmp_path / 'crema_d' / 'audio'
  for _ in range(2):
    manifest, difference = read('crema_d', 'tfds:/sets', export_dir=out)
  assert fake_tfds.calls == [('crema_d', '/sets')]  # The second time is free.
  assert '9 of 7,438 utterances' in difference
  assert rows_of(manifest, 'id', 'label', 'speaker', 'gender', 'split')[:3] == [
    ('1001_ANG_0001', 'angry', '1001', 'male', 'train'),
    ('1001_ANG_0002', 'angry', '1001', 'male', 'train'),
    ('1002_ANG_0001', 'angry', '1002', 'female', 'dev'),
  ]
  with wave.open(str(manifest.utterances[0].path)) as file:
    assert (file.getframerate(), file.getnchannels()) == (16_000, 1)
    samples = np.frombuffer(file.readframes(99), '<i2')
  np.testing.assert_array_equal(samples, np.arange(-5, 5) * 100)


def test_crema_d_from_tfds_is_whole_or_not_there(
  tmp_path, fake_tfds, monkeypatch
):
  to = {'export_dir': tmp_path / 'audio'}
  fake_tfds.failing = True
  refused('the disk is gone', 'crema_d', 'tfds', **to)
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  refused('tensorflow-datasets is not installed', 'crema_d', 'tfds', **to)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_crema_d_from_the_real_builder(tmp_path):
  """The builder itself, with random examples in place of a download."""
  tfds = pytest.importorskip('tensorflow_datasets')
  pytest.importorskip('importlib_resources')
  with tfds.testing.mock_data(num_examples=2):
    rows = list(crema_d.utterances(tmp_path))
  assert [row[0] for row in rows] == ['train'] * 2 + ['dev'] * 2 + ['test'] * 2
  for _, speaker, label, samples in rows:
    assert isinstance(speaker, str)
    assert label in corpora.CORPORA['crema_d'].emotions
    assert len(samples) % 2 == 0
