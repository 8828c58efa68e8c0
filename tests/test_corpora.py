"""Parsers: the real layouts, the published counts, and what goes wrong."""

import collections
import dataclasses
import subprocess
import sys

import pytest

from data_prep import corpora
from data_prep.corpora import base, casia
from data_prep.manifest import CorpusError, natural_key
from tests import shared
from tests.trees import emotale_table, touch


def _savee_folder(name):
  return 'AudioData/' + name.replace('_', '/')


# Where the release keeps the recording of an id.
LAYOUTS = {
  'emodb': lambda n: f'wav/{n}',
  'ravdess': lambda n: f'Audio_Speech_Actors_01-24/Actor_{n[-2:]}/{n}',
  'savee': _savee_folder,
  'emovo': lambda n: f'{n.split("-")[1]}/{n}',
  'casia': lambda n: n.replace('-', '/'),
  'emotale': lambda n: f'wav/{n}',
  'crema_d': lambda n: f'AudioWAV/{n}',
}
COUNTS = {
  'emodb': (535, 10),
  'ravdess': (1440, 24),
  'savee': (480, 4),
  'emovo': (588, 6),
  'casia': (1200, 4),
  'emotale': (800, 18),
  'crema_d': (7442, 91),
}


@pytest.fixture(params=LAYOUTS, scope='module')
def tree(request, tmp_path_factory):
  """Name and folder of a complete corpus."""
  name, layout = request.param, LAYOUTS[request.param]
  tmp_path = tmp_path_factory.mktemp(name)
  touch(
    tmp_path, *(f'{layout(i)}.wav' for i in corpora.CORPORA[name].expected())
  )
  if name == 'emotale':
    emotale_table(tmp_path)
  return name, tmp_path


def test_a_complete_corpus(tree):
  name, root = tree
  spec, manifest, check = corpora.read(name, root)
  assert check.complete
  assert (check.found, check.expected) == (COUNTS[name][0],) * 2
  assert len({u.speaker for u in manifest.utterances}) == COUNTS[name][1]
  labels = collections.Counter(u.label for u in manifest.utterances)
  assert labels == spec.classes
  assert {u.gender for u in manifest.utterances} <= {'female', 'male'}
  assert all(u.text for u in manifest.utterances)
  # Classes in alphabetical order, each in one piece.
  assert list(manifest.classes) == sorted(manifest.classes)
  order = [manifest.classes.index(u.label) for u in manifest.utterances]
  assert order == sorted(order)
  if name != 'casia':
    keys = [(u.label, natural_key(u.id)) for u in manifest.utterances]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
  ('name', 'count', 'speakers'),
  [
    ('iemocap', 5531, 10),
    ('msp_improv', 7798, 12),
    ('msp_podcast', None, None),
  ],
)
def test_published_counts_of_licensed_corpora(name, count, speakers):
  spec = corpora.CORPORA[name]
  assert (spec.count, spec.speakers) == (count, speakers)


def test_every_entry_says_what_a_user_must_know():
  for name, spec in corpora.CORPORA.items():
    assert spec.name == name
    assert list(spec.classes) == sorted(spec.classes)
    assert spec.signal_length > 0
    assert spec.layout
    assert spec.licence
    if name not in ('demo', 'manifest'):
      assert spec.citation.startswith('@')
      assert spec.citation.count('{') == spec.citation.count('}')
      assert spec.homepage.startswith('http')
  lengths = {n: s.signal_length for n, s in corpora.CORPORA.items()}
  published = {
    'casia': 88_000,
    'emodb': 96_000,
    'emovo': 96_000,
    'iemocap': 310_000,
    'ravdess': 110_000,
    'savee': 130_000,
  }
  assert {n: lengths[n] for n in published} == published


def test_emodb_as_published():
  wavs = shared.require('corpora/emodb/wav')
  golden = shared.require('goldens/emodb_published_order.txt')
  spec, manifest, check = corpora.read('emodb', wavs.parent)
  assert check.complete
  assert [u.path.name for u in manifest.utterances] == (
    golden.read_text('utf-8').split()
  )
  assert {u.id for u in manifest.utterances} == set(spec.expected())
  first = manifest.utterances[0]
  assert dataclasses.astuple(first)[2:7] == ('angry', '03', 'male', 'a01', '')


def test_missing_files_are_named(tree):
  name, root = tree
  gone = list(corpora.CORPORA[name].expected())[3]
  path = root / f'{LAYOUTS[name](gone)}.wav'
  path.unlink()
  try:
    with pytest.raises(CorpusError) as error:
      corpora.read(name, root)
    _, manifest, check = corpora.read(name, root, allow_incomplete=True)
  finally:
    touch(path.parent, path.name)  # The tree serves other tests too.
  message = str(error.value)
  assert f'    {gone}' in message
  assert 'missing (1)' in message
  assert '--allow_incomplete' in message
  assert check.missing == (gone,)
  assert len(manifest.utterances) == COUNTS[name][0] - 1


def test_a_missing_speaker_and_class_are_counted(tmp_path):
  names = [n for n in corpora.CORPORA['emodb'].expected() if n[:2] != '16']
  touch(tmp_path, *(f'{n}.wav' for n in names if n[5] != 'E'))
  with pytest.raises(CorpusError) as error:
    corpora.read('emodb', tmp_path)
  assert 'class disgust: 0 of 46' in str(error.value)
  assert 'speakers: 9 of 10 (03, 08, 09, 10, 11, 12, 13, 14, 15)' in (
    str(error.value)
  )
  assert '... and' in str(error.value)


def test_files_that_were_never_published_are_named(tmp_path):
  touch(tmp_path, *(f'{n}.wav' for n in corpora.CORPORA['emodb'].expected()))
  touch(tmp_path, '03a01Wz.wav')
  with pytest.raises(CorpusError, match=r'unknown \(1\):\n    03a01Wz'):
    corpora.read('emodb', tmp_path)


def test_the_wrong_corpus_is_recognised(tmp_path):
  touch(tmp_path, '03a01Wa.wav', '03a01Nc.wav')
  with pytest.raises(CorpusError) as error:
    corpora.read('ravdess', tmp_path)
  message = str(error.value)
  assert 'none of its 2 wav files has a name of RAVDESS' in message
  assert '03-01-06-01-02-01-12.wav' in message
  assert 'names of EMODB: try --corpus=emodb' in message


def test_a_folder_of_something_else(tmp_path):
  touch(tmp_path, 'speech.wav')
  with pytest.raises(CorpusError, match='Expected in --audio_dir: Actor_01/'):
    corpora.read('ravdess', tmp_path)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('none', 'there is no such folder'),
    ('file.zip', r'is a file; give the folder .* \(unpack an archive first\)'),
    ('empty', r'no \.wav file in this folder or below it'),
  ],
)
def test_a_folder_without_audio(tmp_path, name, message):
  (tmp_path / 'file.zip').write_bytes(b'PK')
  (tmp_path / 'empty').mkdir()
  for corpus in set(corpora.CORPORA) - {'demo', 'manifest'}:
    with pytest.raises(CorpusError, match=message) as error:
      corpora.read(corpus, tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_stray_file_is_an_error_or_a_rejected_row(tmp_path):
  touch(tmp_path, *(f'{n}.wav' for n in corpora.CORPORA['savee'].expected()))
  touch(tmp_path, 'test.wav')
  with pytest.raises(CorpusError) as error:
    corpora.read('savee', tmp_path)
  assert f'{tmp_path / "test.wav"}: the name is not one of SAVEE' in (
    str(error.value)
  )
  assert '--on_error=skip' in str(error.value)
  _, manifest, check = corpora.read('savee', tmp_path, on_error='skip')
  assert check.complete
  assert [r.path.name for r in manifest.rejected] == ['test.wav']


def test_two_copies_of_a_corpus(tmp_path):
  touch(tmp_path, 'wav/03a01Wa.wav', 'copy/03a01Wa.wav')
  with pytest.raises(CorpusError) as error:
    corpora.read('emodb', tmp_path, allow_incomplete=True)
  for text in ("id '03a01Wa' is used by 2 files", 'wav/03a01', 'copy/03a01'):
    assert text in str(error.value)
  _, manifest, _ = corpora.read(
    'emodb', tmp_path, allow_incomplete=True, on_error='skip'
  )
  assert [u.path.parent.name for u in manifest.utterances] == ['copy']
  assert [r.path.parent.name for r in manifest.rejected] == ['wav']


def test_what_a_mac_and_windows_leave_behind(tmp_path):
  touch(
    tmp_path,
    '03A01WA.WAV',
    '._03a01Wa.wav',
    '__MACOSX/wav/._03a01Wa.wav',
    '.Trash/03a01Wa.wav',
    'readme.txt',
  )
  _, manifest, _ = corpora.read('emodb', tmp_path, allow_incomplete=True)
  assert [u.id for u in manifest.utterances] == ['03a01Wa']


def test_links_are_followed_once(tmp_path):
  touch(tmp_path / 'disk', '03a01Wa.wav')
  (tmp_path / 'data').mkdir()
  (tmp_path / 'data' / 'wav').symlink_to(tmp_path / 'disk')
  (tmp_path / 'disk' / 'up').symlink_to(tmp_path / 'data')
  assert len(base.find_wavs(tmp_path / 'data')) == 1


def test_savee_has_two_layouts(tmp_path):
  names = list(corpora.CORPORA['savee'].expected())
  touch(tmp_path / 'flat', *(f'{n}.wav' for n in names))
  touch(tmp_path / 'deep', *(f'{n.replace("_", "/")}.wav' for n in names))
  flat, deep = (
    [u.id for u in corpora.read('savee', tmp_path / kind)[1].utterances]
    for kind in ('flat', 'deep')
  )
  assert flat == deep


def test_casia_goes_by_number_and_then_by_speaker(tmp_path):
  touch(tmp_path, *(f'{LAYOUTS["casia"](n)}.wav' for n in casia.expected()))
  _, manifest, _ = corpora.read('casia', tmp_path)
  ids = [u.id for u in manifest.utterances]
  assert ids[:5] == [
    'liuchanhg-angry-201',
    'wangzhe-angry-201',
    'zhaoquanyin-angry-201',
    'ZhaoZuoxiang-angry-201',
    'liuchanhg-angry-202',
  ]
  assert ids[200] == 'liuchanhg-fear-201'


def test_ravdess_songs_are_left_alone_and_said(tmp_path):
  touch(
    tmp_path,
    'speech/03-01-06-01-02-01-12.wav',
    'speech/03-01-08-02-01-02-11.wav',
    'song/03-02-06-01-02-01-12.wav',
  )
  _, manifest, _ = corpora.read('ravdess', tmp_path, allow_incomplete=True)
  assert [
    (u.label, u.speaker, u.gender, u.text) for u in manifest.utterances
  ] == [('fear', '12', 'female', '02'), ('surprise', '11', 'male', '01')]
  assert manifest.notes == (
    'wav files left out: 1 (vocal channel 02, song; this corpus is the speech)',
  )


@pytest.mark.parametrize(
  ('corpus', 'name', 'message'),
  [
    ('ravdess', '03-01-09-01-01-01-01', 'emotion 01 to 08'),
    ('ravdess', '01-01-03-01-01-01-01', 'modality 01'),
    ('emodb', '04a01Wa', "speaker '04' is unknown"),
    ('casia', 'wangzhe/angry/301', 'number 301 is not one of 201 to 250'),
    ('crema_d', '1092_DFA_ANG_XX', "actor '1092' is unknown"),
  ],
)
def test_fields_out_of_range(tmp_path, corpus, name, message):
  good = next(iter(corpora.CORPORA[corpus].expected()))
  touch(tmp_path, f'{LAYOUTS[corpus](good)}.wav', f'{name}.wav')
  with pytest.raises(CorpusError, match=message):
    corpora.read(corpus, tmp_path, allow_incomplete=True)


def test_demo(tmp_path):
  demo = pytest.importorskip('data_prep.demo')
  touch(tmp_path, *(f'{n}.wav' for n in demo.utterance_names()))
  spec, manifest, check = corpora.read('demo', tmp_path)
  assert check.complete
  assert len(manifest.utterances) == spec.count
  assert manifest.vad_range == spec.vad_range


def test_own_corpus(tmp_path):
  touch(tmp_path, 'x/a.wav', 'x/b.wav')
  table = tmp_path / 'mine.tsv'
  table.write_text('path\tspeaker\tlabel\nb.wav\ts\ttired\n', encoding='utf-8')
  _, manifest, check = corpora.read('manifest', tmp_path / 'x', manifest=table)
  assert check.complete
  assert manifest.classes == ('tired',)
  assert [u.path.name for u in manifest.utterances] == ['b.wav']
  # Without --manifest it lies in the folder.
  (tmp_path / 'x' / 'manifest.tsv').write_bytes(table.read_bytes())
  assert corpora.read('manifest', tmp_path / 'x')[1] == manifest
  with pytest.raises(CorpusError, match=r'--manifest=FILE\.tsv'):
    corpora.read('manifest', None)


def test_names_and_options_that_do_not_exist(tmp_path):
  with pytest.raises(
    CorpusError, match=r'--corpus=emo: is unknown; choose one'
  ):
    corpora.read('emo', tmp_path)
  with pytest.raises(CorpusError, match=r'--rows: is not an option of .*emodb'):
    corpora.read('emodb', tmp_path, rows='all')
  with pytest.raises(CorpusError, match='--audio_dir is missing'):
    corpora.read('emodb', None)


def test_parsers_need_no_tensorflow():
  code = (
    'import sys\n'
    "for name in ('tensorflow', 'tensorflow_datasets', 'librosa', 'jax'):\n"
    '  sys.modules[name] = None\n'
    'from data_prep import corpora, prepare\n'
    'print(len(corpora.CORPORA))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert done.stdout.strip() == str(len(corpora.CORPORA)), done.stderr
