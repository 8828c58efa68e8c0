"""Parsers: the real layouts, the published counts, and what goes wrong."""

import collections
import dataclasses
import os
import pathlib
import re
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
# Utterances, speakers, and the samples at 22,050 Hz of librosa22k.
PUBLISHED = {
  'casia': (1200, 4, 88_000),
  'crema_d': (7442, 91, 100_000),
  'emodb': (535, 10, 96_000),
  'emotale': (800, 18, 100_000),
  'emovo': (588, 6, 96_000),
  'iemocap': (5531, 10, 310_000),
  'ravdess': (1440, 24, 110_000),
  'savee': (480, 4, 130_000),
  'tess': (2800, 2, 48_000),
  'nemo': (4481, 9, 66_000),
  'urdu': (400, 29, 55_125),
  'msp_improv': (7798, 12, 220_500),
  'msp_podcast': (None, None, 250_000),
}


def names_of(corpus):
  """All ids of a complete corpus."""
  return sorted(corpora.CORPORA[corpus].expected)


def refused(message, corpus, root, **options):
  with pytest.raises(CorpusError, match=message) as error:
    corpora.read(corpus, root, **options)
  return str(error.value)


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
  rows = manifest.utterances
  assert len(rows) == PUBLISHED[name][0]
  assert len({u.speaker for u in rows}) == PUBLISHED[name][1]
  assert collections.Counter(u.label for u in rows) == spec.classes
  assert {u.gender for u in rows} <= {'female', 'male'}
  assert all(u.text for u in rows)
  # Classes in alphabetical order, each in one piece.
  assert list(manifest.classes) == sorted(manifest.classes)
  keys = [(u.label, natural_key(u.id)) for u in rows]
  if name == 'casia':  # See the test of its two layouts.
    keys = [label for label, _ in keys]
  assert keys == sorted(keys)


def test_missing_files_are_named(tree):
  name, root = tree
  gone = names_of(name)[3]
  path = root / f'{LAYOUTS[name](gone)}.wav'
  path.unlink()
  try:
    missing = rf'missing \(1\):\n    {gone}'
    assert '--allow_incomplete' in refused(missing, name, root)
    _, manifest, difference = corpora.read(name, root, allow_incomplete=True)
  finally:
    touch(path.parent, path.name)  # The tree serves other tests too.
  assert difference.endswith(f'missing (1):\n    {gone}')
  assert len(manifest.utterances) == PUBLISHED[name][0] - 1


@pytest.mark.parametrize(
  ('corpus', 'name', 'row'),
  [
    (
      'tess',
      'OAF_angry/OAF_back_angry',
      'OAF_back_angry angry OAF female back',
    ),
    ('tess', 'YAF_x/YAF_mill_ps', 'YAF_mill_ps surprise YAF female mill'),
    # Published so: one file of the older actress is misspelled.
    ('tess', 'x/OA_bite_neutral', 'OAF_bite_neutral neutral OAF female bite'),
    ('nemo', 'samples/EB0_anger_1', 'EB0_anger_1 angry EB0 female 1'),
    (
      'nemo',
      'samples/WR0_surprised_90',
      'WR0_surprised_90 surprise WR0 male 90',
    ),
    ('urdu', 'Angry/SF1_F27_A027', 'SF1_F27_A027 angry SF1 female '),
    ('urdu', 'Sad/SM20_F1_S01', 'SM20_F1_S01 sad SM20 male '),
  ],
)
def test_public_corpora_whose_ids_cannot_be_foretold(
  tmp_path, corpus, name, row
):
  touch(tmp_path, f'{name}.wav')
  _, manifest, _ = corpora.read(corpus, tmp_path, allow_incomplete=True)
  (found,) = manifest.utterances
  about = found.id, found.label, found.speaker, found.gender, found.text
  assert about == tuple(row.split(' '))


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
  specs = {name: corpora.CORPORA[name] for name in PUBLISHED}
  found = {n: (s.count, s.speakers, s.signal_length) for n, s in specs.items()}
  assert found == PUBLISHED


def test_emodb_as_published():
  wavs = shared.require('corpora/emodb/wav')
  golden = shared.require('goldens/emodb_published_order.txt')
  spec, manifest, difference = corpora.read('emodb', wavs.parent)
  assert not difference
  names = [u.path.name for u in manifest.utterances]
  assert names == golden.read_text('utf-8').split()
  assert {u.id for u in manifest.utterances} == set(spec.expected)
  first = manifest.utterances[0]
  assert dataclasses.astuple(first)[2:7] == ('angry', '03', 'male', 'a01', '')


def test_classes_speakers_and_unknown_files_are_counted(tmp_path):
  names = [n for n in names_of('emodb') if n[:2] != '16' and n[5] != 'E']
  touch(tmp_path, *(f'{n}.wav' for n in names), '03a01Wz.wav')
  said = refused('class disgust: 0 of 46', 'emodb', tmp_path)
  assert 'speakers: 9 of 10 (03, 08, 09, 10, 11, 12, 13, 14, 15)' in said
  assert 'unknown (1):\n    03a01Wz' in said
  assert '... and' in said


def test_the_wrong_corpus_is_recognised(tmp_path):
  touch(tmp_path / 'a', '03a01Wa.wav', '03a01Nc.wav')
  none = 'none of its 2 wav files has a name of RAVDESS'
  said = refused(none, 'ravdess', tmp_path / 'a')
  assert '03-01-06-01-02-01-12.wav' in said
  assert 'names of EMODB: try --corpus=emodb' in said
  touch(tmp_path / 'b', 'speech.wav')
  refused('Expected in --audio_dir: Actor_01/', 'ravdess', tmp_path / 'b')


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('none', 'none: there is no such folder'),
    ('file.zip', 'is a file; unpack an archive first and give the folder'),
    ('empty', r'empty: no \.wav file in this folder or below it'),
  ],
)
def test_a_folder_without_audio(tmp_path, name, message):
  (tmp_path / 'file.zip').write_bytes(b'PK')
  (tmp_path / 'empty').mkdir()
  for corpus in set(corpora.CORPORA) - {'demo', 'manifest'}:
    refused(message, corpus, tmp_path / name)


def test_two_copies_of_a_corpus(tmp_path):
  touch(tmp_path, 'wav/03a01Wa.wav', 'copy/03a01Wa.wav')
  message = r"wav/03a01Wa.wav: id '03a01Wa' is used by 2 files.*copy/03a01Wa"
  refused(message, 'emodb', tmp_path, allow_incomplete=True)
  options = {'allow_incomplete': True, 'on_error': 'skip'}
  _, manifest, _ = corpora.read('emodb', tmp_path, **options)
  assert [u.path.parent.name for u in manifest.utterances] == ['copy']
  assert [r.path.parent.name for r in manifest.rejected] == ['wav']


def test_names_in_any_case_and_what_a_mac_leaves_behind(tmp_path):
  touch(tmp_path, '03A01WA.WAV', '._03a01Wa.wav', 'readme.txt')
  _, manifest, _ = corpora.read('emodb', tmp_path, allow_incomplete=True)
  assert [u.id for u in manifest.utterances] == ['03a01Wa']


def test_names_that_are_not_utf_8_are_refused_at_the_start(tmp_path):
  """As after unpacking a Chinese archive elsewhere."""
  folder = os.fsencode(tmp_path) + b'/\xc9\xfa\xc6\xf8'
  touch(tmp_path, 'angry/202-angry-wangzhe.wav')
  touch(pathlib.Path(os.fsdecode(folder)), '201-angry-wangzhe.wav')
  options = {'allow_incomplete': True}
  message = r'\\xc9\\xfa.* is not UTF-8.*convmv'
  refused(message, 'casia', tmp_path, **options)
  options['on_error'] = 'skip'
  _, manifest, _ = corpora.read('casia', tmp_path, **options)
  assert [u.id for u in manifest.utterances] == ['wangzhe-angry-202']
  assert len(manifest.rejected) == 1


# casia: wangzhe-angry-201 as angry/201-angry-wangzhe.
OTHER_LAYOUTS = {
  'savee': lambda n: n,
  'casia': lambda n: re.sub('(.+)-(.+)-(.+)', r'\2/\3-\2-\1', n),
}


@pytest.mark.parametrize('corpus', OTHER_LAYOUTS)
def test_corpora_with_two_layouts(tmp_path, corpus):
  found = []
  for layouts in (LAYOUTS, OTHER_LAYOUTS):
    root = tmp_path / str(len(found))
    touch(root, *(f'{layouts[corpus](n)}.wav' for n in names_of(corpus)))
    _, manifest, difference = corpora.read(corpus, root)
    assert not difference
    found.append([dataclasses.replace(u, path='') for u in manifest.utterances])
  assert found[0] == found[1]
  if corpus == 'casia':  # By number and then by speaker, as published.
    ids = [u.id for u in found[0]]
    who = ['liuchanhg', 'wangzhe', 'zhaoquanyin', 'ZhaoZuoxiang']
    assert ids[:4] == [f'{speaker}-angry-201' for speaker in who]
    assert (ids[4], ids[200]) == ('liuchanhg-angry-202', 'liuchanhg-fear-201')


def test_ravdess_songs_are_left_alone_and_said(tmp_path):
  names = ('03-01-06-01-02-01-12', '03-01-08-02-01-02-11')
  touch(tmp_path, *(f'{name}.wav' for name in names))
  touch(tmp_path / 'song', '03-02-06-01-02-01-12.wav')
  _, manifest, _ = corpora.read('ravdess', tmp_path, allow_incomplete=True)
  rows = [(u.label, u.speaker, u.gender, u.text) for u in manifest.utterances]
  assert rows == [
    ('fear', '12', 'female', '02'),
    ('surprise', '11', 'male', '01'),
  ]
  (note,) = manifest.notes
  assert note.startswith('wav files left out: 1 (vocal channel 02, song;')


@pytest.mark.parametrize(
  ('corpus', 'name', 'message'),
  [
    ('ravdess', '03-01-09-01-01-01-01', "emotion '09' is unknown; .*01, 02"),
    ('ravdess', '01-01-03-01-01-01-01', "modality '01' is unknown"),
    ('emodb', '04a01Wa', "speaker '04' is unknown; EMODB has 03, 08"),
    ('casia', 'wangzhe/angry/301', "number '301' .* CASIA has 201 to 250"),
    ('crema_d', '1092_DFA_ANG_XX', "speaker '1092' .* has 1001 to 1091"),
    ('savee', 'test', r'/test\.wav: the name is not one of SAVEE'),
  ],
)
def test_fields_out_of_range(tmp_path, corpus, name, message):
  good = names_of(corpus)[0]
  touch(tmp_path, f'{LAYOUTS[corpus](good)}.wav', f'{name}.wav')
  refused(message, corpus, tmp_path, allow_incomplete=True)


def test_own_corpus(tmp_path):
  folder, table = tmp_path / 'x', tmp_path / '2 Calls-a.tsv'
  touch(folder, 'a.wav', 'b.wav')
  table.write_text('path\tspeaker\tlabel\nb.wav\ts\ttired\n', encoding='utf-8')
  _, manifest, difference = corpora.read('manifest', folder, manifest=table)
  assert not difference
  assert manifest.corpus == 'corpus_2_calls_a'
  assert manifest.classes == ('tired',)
  assert [u.path.name for u in manifest.utterances] == ['b.wav']
  options = {'manifest': table, 'name': 'my_corpus'}
  named = corpora.read('manifest', folder, **options)[1]
  assert named == dataclasses.replace(manifest, corpus='my_corpus')
  # Without --manifest it lies in the folder.
  (folder / 'manifest.tsv').write_bytes(table.read_bytes())
  found = corpora.read('manifest', folder)[1]
  assert found == dataclasses.replace(manifest, corpus='manifest')
  refused('use small letters', 'manifest', folder, name='My')
  message = 'emodb is a known corpus; give yours another name'
  refused(message, 'manifest', folder, name='emodb')


def test_help_and_parsers_need_little():
  code = """if True:
    import sys
    for name in ('tensorflow', 'tensorflow_datasets', 'librosa', 'jax'):
      sys.modules[name] = None
    from data_prep import __main__ as program
    assert program.run(['--help']) == 0
    assert not {'numpy', 'scipy', 'soundfile'} & set(sys.modules)
    assert program.run(['--corpus=emodb', '--audio_dir=/none']) == 2
  """
  command = [sys.executable, '-c', code]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stderr.startswith('Error: /none: there is no such folder')
