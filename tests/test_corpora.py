"""Parsers: the real layouts, the published counts, and what goes wrong."""

import collections
import dataclasses
import os
import subprocess
import sys

import pytest

from data_prep import corpora
from data_prep.manifest import CorpusError
from data_prep.tables import natural_key
from tests import shared
from tests.trees import emotale_table, touch

# Where the release keeps the recording of an id.
LAYOUTS = {
  'emodb': lambda n: f'wav/{n}',
  'ravdess': lambda n: f'Audio_Speech_Actors_01-24/Actor_{n[-2:]}/{n}',
  'savee': lambda n: 'AudioData/' + n.replace('_', '/'),
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


def names_of(corpus):
  """All ids of a complete corpus."""
  return sorted(corpora.CORPORA[corpus].expected)


def casia_by_emotion(name):
  speaker, emotion, number = name.split('-')
  return f'{emotion}/{number}-{emotion}-{speaker}'


@pytest.fixture(params=LAYOUTS, scope='module')
def tree(request, tmp_path_factory):
  """Name and folder of a complete corpus."""
  name, layout = request.param, LAYOUTS[request.param]
  root = tmp_path_factory.mktemp(name)
  touch(root, *(f'{layout(i)}.wav' for i in names_of(name)))
  if name == 'emotale':
    emotale_table(root)
  return name, root


def test_a_complete_corpus(tree):
  name, root = tree
  spec, manifest, difference = corpora.read(name, root)
  assert not difference
  assert len(manifest.utterances) == spec.count == COUNTS[name][0]
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


def test_missing_files_are_named(tree):
  name, root = tree
  gone = names_of(name)[3]
  path = root / f'{LAYOUTS[name](gone)}.wav'
  path.unlink()
  try:
    with pytest.raises(CorpusError) as error:
      corpora.read(name, root)
    _, manifest, difference = corpora.read(name, root, allow_incomplete=True)
  finally:
    touch(path.parent, path.name)  # The tree serves other tests too.
  assert f'missing (1):\n    {gone}' in str(error.value)
  assert '--allow_incomplete' in str(error.value)
  assert difference.endswith(f'missing (1):\n    {gone}')
  assert len(manifest.utterances) == COUNTS[name][0] - 1


TESS_WORDS = [f'{a}{b}' for a in 'abcdefghijklmnopqrst' for b in 'aeiouvwxyz']
NEMO_COUNTS = {
  'anger': (90, 90, 90, 90, 90, 29, 90, 90, 90),
  'fear': (90, 90, 90, 90, 90, 17, 89, 90, 90),
  'happiness': (90, 90, 90, 90, 90, 30, 89, 90, 90),
  'neutral': (90, 90, 90, 90, 90, 90, 90, 90, 89),
  'sadness': (90, 90, 90, 90, 90, 49, 90, 90, 90),
  'surprised': (89, 90, 90, 90, 0, 41, 90, 89, 90),
}
NEMO_SPEAKERS = ['EB0', 'IC0', 'KD0', 'KS0', 'MK0', 'MP0', 'SM0', 'TP0', 'WR0']


def tess_tree():
  for speaker in ('OAF', 'YAF'):
    for emotion in [
      'angry',
      'disgust',
      'fear',
      'happy',
      'neutral',
      'ps',
      'sad',
    ]:
      folder = emotion.replace('ps', 'pleasant_surprise')
      for word in TESS_WORDS:
        # Published so: one file of the older actress is misspelled.
        odd = (speaker, word, emotion) == ('OAF', 'ba', 'neutral')
        who = 'OA' if odd else speaker
        yield f'TESS/{speaker}_{folder}/{who}_{word}_{emotion}.wav'


def nemo_tree():
  for emotion, counts in NEMO_COUNTS.items():
    for speaker, count in zip(NEMO_SPEAKERS, counts, strict=True):
      for number in range(1, count + 1):
        yield f'samples/{speaker}_{emotion}_{number}.wav'


def urdu_tree():
  for emotion in ('Angry', 'Happy', 'Neutral', 'Sad'):
    for number in range(1, 101):
      speaker = f'SM{number}' if number <= 20 else f'SF{number % 9 + 1}'
      file = f'{speaker}_F{number:02d}_{emotion[0]}{number:02d}'
      yield f'{emotion}/{file}.wav'


@pytest.mark.parametrize(
  ('corpus', 'names', 'count', 'speakers', 'first'),
  [
    ('tess', tess_tree, 2800, 2, ('OAF_aa_angry', 'OAF', 'female', 'aa')),
    ('nemo', nemo_tree, 4481, 9, ('EB0_anger_1', 'EB0', 'female', '1')),
    ('urdu', urdu_tree, 400, 29, ('SF1_F27_A27', 'SF1', 'female', '')),
  ],
)
def test_public_corpora_whose_ids_cannot_be_foretold(
  tmp_path, corpus, names, count, speakers, first
):
  touch(tmp_path, *names())
  spec, manifest, difference = corpora.read(corpus, tmp_path)
  assert not difference
  assert len(manifest.utterances) == spec.count == count
  assert len({u.speaker for u in manifest.utterances}) == speakers
  found = manifest.utterances[0]
  assert (found.id, found.speaker, found.gender, found.text) == first
  assert found.label == 'angry'
  if corpus == 'tess':
    odd = next(u for u in manifest.utterances if u.path.name[:3] == 'OA_')
    assert (odd.id, odd.speaker) == ('OAF_ba_neutral', 'OAF')
    # It is guessed as well, like every corpus.
    with pytest.raises(CorpusError, match='names of TESS: try --corpus=tess'):
      corpora.read('emodb', tmp_path)


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
  published = {
    'casia': (1200, 4, 88_000),
    'emodb': (535, 10, 96_000),
    'emovo': (588, 6, 96_000),
    'iemocap': (5531, 10, 310_000),
    'ravdess': (1440, 24, 110_000),
    'savee': (480, 4, 130_000),
    'msp_improv': (7798, 12, 220_500),
    'msp_podcast': (None, None, 250_000),
  }
  specs = {name: corpora.CORPORA[name] for name in published}
  found = {n: (s.count, s.speakers, s.signal_length) for n, s in specs.items()}
  assert found == published


def test_emodb_as_published():
  wavs = shared.require('corpora/emodb/wav')
  golden = shared.require('goldens/emodb_published_order.txt')
  spec, manifest, difference = corpora.read('emodb', wavs.parent)
  assert not difference
  assert [u.path.name for u in manifest.utterances] == (
    golden.read_text('utf-8').split()
  )
  assert {u.id for u in manifest.utterances} == set(spec.expected)
  first = manifest.utterances[0]
  assert dataclasses.astuple(first)[2:7] == ('angry', '03', 'male', 'a01', '')


def test_classes_speakers_and_unknown_files_are_counted(tmp_path):
  names = [n for n in names_of('emodb') if n[:2] != '16' and n[5] != 'E']
  touch(tmp_path, *(f'{n}.wav' for n in names), '03a01Wz.wav')
  with pytest.raises(CorpusError) as error:
    corpora.read('emodb', tmp_path)
  for text in (
    'class disgust: 0 of 46',
    'speakers: 9 of 10 (03, 08, 09, 10, 11, 12, 13, 14, 15)',
    'unknown (1):\n    03a01Wz',
    '... and',
  ):
    assert text in str(error.value)


def test_the_wrong_corpus_is_recognised(tmp_path):
  touch(tmp_path / 'a', '03a01Wa.wav', '03a01Nc.wav')
  with pytest.raises(CorpusError) as error:
    corpora.read('ravdess', tmp_path / 'a')
  for text in (
    'none of its 2 wav files has a name of RAVDESS',
    '03-01-06-01-02-01-12.wav',
    'names of EMODB: try --corpus=emodb',
  ):
    assert text in str(error.value)
  touch(tmp_path / 'b', 'speech.wav')
  with pytest.raises(CorpusError, match='Expected in --audio_dir: Actor_01/'):
    corpora.read('ravdess', tmp_path / 'b')


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('none', 'there is no such folder'),
    ('file.zip', 'is a file; unpack an archive first and give the folder'),
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
  touch(tmp_path, *(f'{n}.wav' for n in names_of('savee')), 'test.wav')
  with pytest.raises(CorpusError) as error:
    corpora.read('savee', tmp_path)
  assert f'{tmp_path / "test.wav"}: the name is not one of SAVEE' in (
    str(error.value)
  )
  assert '--on_error=skip' in str(error.value)
  _, manifest, difference = corpora.read('savee', tmp_path, on_error='skip')
  assert not difference
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


def test_names_in_any_case_and_what_a_mac_leaves_behind(tmp_path):
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


def test_names_that_are_not_utf_8_are_refused_at_the_start(tmp_path):
  """As after unpacking a Chinese archive elsewhere."""
  folder = os.fsencode(tmp_path) + b'/\xc9\xfa\xc6\xf8'
  os.mkdir(folder)
  open(folder + b'/201-angry-wangzhe.wav', 'wb').close()
  touch(tmp_path, 'angry/202-angry-wangzhe.wav')
  with pytest.raises(CorpusError, match=r'\\xc9\\xfa.* is not UTF-8.*convmv'):
    corpora.read('casia', tmp_path, allow_incomplete=True)
  _, manifest, _ = corpora.read(
    'casia', tmp_path, allow_incomplete=True, on_error='skip'
  )
  assert [u.id for u in manifest.utterances] == ['wangzhe-angry-202']
  assert len(manifest.rejected) == 1


@pytest.mark.parametrize(
  ('corpus', 'other'), [('savee', lambda n: n), ('casia', casia_by_emotion)]
)
def test_corpora_with_two_layouts(tmp_path, corpus, other):
  found = []
  for kind, layout in (('a', LAYOUTS[corpus]), ('b', other)):
    touch(tmp_path / kind, *(f'{layout(n)}.wav' for n in names_of(corpus)))
    _, manifest, difference = corpora.read(corpus, tmp_path / kind)
    assert not difference
    found.append([dataclasses.replace(u, path='') for u in manifest.utterances])
  assert found[0] == found[1]
  if corpus == 'casia':  # By number and then by speaker, as published.
    ids = [u.id for u in found[0]]
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
    ('ravdess', '03-01-09-01-01-01-01', "emotion '09' is unknown; .*01, 02"),
    ('ravdess', '01-01-03-01-01-01-01', "modality '01' is unknown"),
    ('emodb', '04a01Wa', "speaker '04' is unknown; EMODB has 03, 08"),
    ('casia', 'wangzhe/angry/301', "number '301' .* CASIA has 201 to 250"),
    ('crema_d', '1092_DFA_ANG_XX', "speaker '1092' .* has 1001 to 1091"),
  ],
)
def test_fields_out_of_range(tmp_path, corpus, name, message):
  good = names_of(corpus)[0]
  touch(tmp_path, f'{LAYOUTS[corpus](good)}.wav', f'{name}.wav')
  with pytest.raises(CorpusError, match=message):
    corpora.read(corpus, tmp_path, allow_incomplete=True)


def test_own_corpus(tmp_path):
  touch(tmp_path, 'x/a.wav', 'x/b.wav')
  table = tmp_path / '2 Calls-a.tsv'
  table.write_text('path\tspeaker\tlabel\nb.wav\ts\ttired\n', encoding='utf-8')
  _, manifest, difference = corpora.read(
    'manifest', tmp_path / 'x', manifest=table
  )
  assert not difference
  assert manifest.corpus == 'corpus_2_calls_a'
  assert manifest.classes == ('tired',)
  assert [u.path.name for u in manifest.utterances] == ['b.wav']
  named = corpora.read(
    'manifest', tmp_path / 'x', manifest=table, name='my_corpus'
  )[1]
  assert named == dataclasses.replace(manifest, corpus='my_corpus')
  # Without --manifest it lies in the folder.
  (tmp_path / 'x' / 'manifest.tsv').write_bytes(table.read_bytes())
  found = corpora.read('manifest', tmp_path / 'x')[1]
  assert found == dataclasses.replace(manifest, corpus='manifest')
  for name, message in (
    ('My', 'use small letters'),
    ('emodb', 'emodb is a known corpus; give yours another name'),
  ):
    with pytest.raises(CorpusError, match=message):
      corpora.read('manifest', tmp_path / 'x', name=name)
  with pytest.raises(CorpusError, match=r'--manifest=FILE\.tsv'):
    corpora.read('manifest', None)


def test_names_and_options_that_do_not_exist(tmp_path):
  with pytest.raises(
    CorpusError, match=r'--corpus=emo: is unknown; choose one.*--name=emo'
  ):
    corpora.read('emo', tmp_path)
  with pytest.raises(CorpusError, match=r'--rows: is not an option of .*emodb'):
    corpora.read('emodb', tmp_path, rows='all')
  with pytest.raises(CorpusError, match='--audio_dir is missing'):
    corpora.read('emodb', None)


def test_help_and_parsers_need_little():
  code = (
    'import sys\n'
    "for name in ('tensorflow', 'tensorflow_datasets', 'librosa', 'jax'):\n"
    '  sys.modules[name] = None\n'
    'from data_prep import __main__ as program\n'
    "assert program.run(['--help']) == 0\n"
    "assert not {'numpy', 'scipy', 'soundfile'} & set(sys.modules)\n"
    "assert program.run(['--corpus=emodb', '--audio_dir=/none']) == 2\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert done.stderr.startswith('Error: /none: there is no such folder')
