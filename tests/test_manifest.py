"""The manifest: what a table may hold, and what is said where it may not."""

import dataclasses

import pytest

from data_prep import manifest, tables
from data_prep.manifest import Manifest, Utterance
from data_prep.tables import CorpusError


@pytest.fixture
def audio(tmp_path):
  """Three files; their content is not the manifest's business."""
  paths = [tmp_path / f'{name}.wav' for name in ('a', 'b', 'c')]
  for path in paths:
    path.write_bytes(b'RIFF')
  return paths


def make(audio, **changes):
  rows = [
    Utterance('u1', audio[0], 'angry', 's1', 'female', 'x', 'train', 2.0, 3, 4),
    Utterance('u2', audio[1], 'sad', 's2', 'male', 'say "hi"'),
    Utterance('u10', audio[2], 'sad', 's2', valence=1.0, arousal=5.0),
  ]
  values = {
    'corpus': 'synthetic',
    'classes': ('angry', 'sad'),
    'vad_range': (1.0, 5.0),
    'utterances': tuple(rows),
    'root': audio[0].parent,
  }
  return Manifest(**(values | changes))


def table(tmp_path, text, name='mine.tsv'):
  path = tmp_path / name
  path.write_text(text.replace('|', '\t'), encoding='utf-8')
  return path


def test_a_written_manifest_is_read_back_equal(audio, tmp_path):
  path = tmp_path / 'manifest.tsv'
  written = make(audio)
  manifest.write_manifest(written, path, [1.25, 0.1, 3.0])
  lines = path.read_text('utf-8').splitlines()
  assert lines[0].split('\t') == list(manifest.COLUMNS)
  assert lines[1].split('\t') == (
    [
      'u1',
      'a.wav',
      'angry',
      's1',
      'female',
      'x',
      'train',
      '1.25',
      '2.0',
      '3',
      '4',
    ]
  )
  read = manifest.read_manifest(path, corpus='synthetic', vad_range=(1.0, 5.0))
  assert read == written
  assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.')] == []


def test_a_failed_write_leaves_the_old_table(audio, tmp_path):
  path = tmp_path / 'manifest.tsv'
  manifest.write_manifest(make(audio), path)
  before = path.read_bytes()
  with pytest.raises(ValueError, match='shorter'):
    manifest.write_manifest(make(audio), path, [1.0])
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.')] == []


def test_a_transcript_stays_on_one_line(audio, tmp_path):
  rows = (dataclasses.replace(make(audio).utterances[0], text='a\tb\nc'),)
  path = tmp_path / 'manifest.tsv'
  manifest.write_manifest(make(audio, utterances=rows), path)
  assert len(path.read_text('utf-8').splitlines()) == 2
  read = manifest.read_manifest(path, vad_range=(1, 5))
  assert read.utterances[0].text == 'a b c'


def test_natural_order():
  names = ['a10', 'A2', 'a2', 'b', 'a', '10', '9']
  assert sorted(names, key=tables.natural_key) == (
    ['9', '10', 'a', 'A2', 'a2', 'a10', 'b']
  )


@pytest.mark.parametrize(
  ('change', 'messages'),
  [
    ({'id': 'u2'}, ["id 'u2' is used by 2 files", 'a.wav', 'b.wav']),
    (
      {'label': 'Angry'},
      ["a.wav: label 'Angry' is unknown; allowed: angry, sad"],
    ),
    ({'speaker': ''}, ['a.wav: the speaker is missing']),
    ({'arousal': 5.5}, ['a.wav: arousal 5.5 is outside the scale 1 to 5']),
    ({'valence': float('inf')}, ['valence inf is outside the scale']),
    (
      {'label': '', 'valence': None, 'arousal': None, 'dominance': None},
      ['has neither a label nor valence, arousal and dominance'],
    ),
    (
      {'label': '', 'valence': None},
      ['a.wav: valence missing; VAD needs all three'],
    ),
    ({'id': ''}, ['the id is empty']),
  ],
)
def test_each_broken_rule_is_named(audio, change, messages):
  good = make(audio)
  first = dataclasses.replace(good.utterances[0], **change)
  broken = make(audio, utterances=(first, *good.utterances[1:]))
  with pytest.raises(CorpusError) as error:
    manifest.check(broken)
  for message in (*messages, '1 of 3 utterances', '--on_error=skip'):
    assert message in str(error.value)


def test_missing_audio_is_named(audio):
  audio[1].unlink()
  with pytest.raises(CorpusError, match=r'b\.wav: there is no such file'):
    manifest.check(make(audio))


def test_an_empty_manifest_says_what_was_left_out(audio):
  empty = make(
    audio, utterances=(), rejected=(manifest.Rejected(audio[0], 'is a song'),)
  )
  with pytest.raises(
    CorpusError, match=r"no utterance of 'synthetic'"
  ) as error:
    manifest.check(empty)
  assert 'a.wav: is a song' in str(error.value)


def test_vad_without_a_scale_is_refused(audio):
  with pytest.raises(CorpusError, match='range of the scale is not known'):
    manifest.check(make(audio, vad_range=None))


def test_a_users_table(audio, tmp_path):
  path = table(
    tmp_path,
    'speaker|path|label|mood|gender|split\n'
    'ann|b.wav|tired|7|F|Development\n'
    'bob|a.wav|alert||m|Train\n',
  )
  read = manifest.read_manifest(path)
  # Rows keep their order, classes are sorted, other columns do not matter.
  assert [u.id for u in read.utterances] == ['b', 'a']
  assert read.classes == ('alert', 'tired')
  assert read.utterances[0] == Utterance(
    'b', audio[1], 'tired', 'ann', 'female', '', 'dev'
  )
  assert read.utterances[1].split == 'train'
  assert read.vad_range is None


def test_a_users_table_with_vad_only(audio, tmp_path):
  path = table(
    tmp_path, 'path|speaker|valence|arousal|dominance\na.wav|ann|1|4.5|7\n'
  )
  with pytest.raises(CorpusError, match='--vad_range=1,7'):
    manifest.read_manifest(path)
  read = manifest.read_manifest(path, vad_range=(1, 7))
  assert read.classes == ()
  assert read.utterances[0].vad == (1.0, 4.5, 7.0)


def test_paths_start_from_the_given_folder(audio, tmp_path):
  (tmp_path / 'tables').mkdir()
  path = table(
    tmp_path / 'tables', 'path|speaker|label\na.wav|s|x\n', 'mine.tsv'
  )
  with pytest.raises(CorpusError, match=r'tables/a\.wav: line 2 of mine\.tsv'):
    manifest.read_manifest(path)
  read = manifest.read_manifest(path, root=tmp_path)
  assert read.utterances[0].path == audio[0]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', "column 'path', 'speaker' is missing"),
    ('path|label\na.wav|x\n', "column 'speaker' is missing"),
    ('path|speaker\na.wav|s\n', 'neither a column label nor the columns'),
    ('path|speaker|label\n', 'has a header and no rows'),
    ('path|speaker|label\n|s|x\n', 'line 2 of mine.tsv: cannot be read: the'),
    (
      'path|speaker|label\na.wav|s|x\na.wav|s|x\n',
      "line 3 of mine.tsv: id 'a' is used by 2 files",
    ),
    (
      'path|speaker|label|valence\na.wav|s|x|high\n',
      "could not convert string to float: 'high'",
    ),
    ('path|speaker|label\nz.wav|s|x\n', 'there is no such file'),
    ('path|speaker|label\na.wav||x\n', 'the speaker is missing'),
    ('path|speaker|label|label\na.wav|s|x|y\n', "more than one column 'label'"),
    ('path|speaker|label\na.wav|s|x|y\n', 'line 2 has 4 cells and the header'),
    (
      'path|speaker|text|label\na.wav|s|"two\nlines"|x\n',
      'line 2 ends inside of a quoted cell; close the quote',
    ),
    (
      f'path|speaker|label|text\na.wav|s|x|{"x" * 131_073}\n',
      'line 2 has a cell of 131,073 characters; shorten it',
    ),
  ],
)
def test_a_users_mistakes(audio, tmp_path, text, message):
  path = table(tmp_path, text)
  with pytest.raises(CorpusError) as error:
    manifest.read_manifest(path, vad_range=(1, 5))
  assert message in str(error.value)
  assert str(path) in str(error.value)


def test_broken_rows_can_be_skipped(audio, tmp_path):
  path = table(tmp_path, 'path|speaker|label\na.wav|s|x\nz.wav|s|x\nb.wav||x\n')
  read = manifest.read_manifest(path, on_error='skip')
  assert [u.id for u in read.utterances] == ['a']
  assert [(r.path.name, r.reason[:18]) for r in read.rejected] == [
    ('z.wav', 'line 3 of mine.tsv'),
    ('b.wav', 'line 4 of mine.tsv'),
  ]


def test_labels_can_be_restricted(audio, tmp_path):
  path = table(tmp_path, 'path|speaker|label\na.wav|s|happy\n')
  with pytest.raises(CorpusError, match="'happy' is unknown; allowed: sad"):
    manifest.read_manifest(path, classes=['sad'])


def test_a_table_that_is_not_there_or_not_text(tmp_path):
  with pytest.raises(CorpusError, match='there is no such file'):
    manifest.read_manifest(tmp_path / 'none.tsv')
  with pytest.raises(CorpusError, match='is a folder'):
    manifest.read_manifest(tmp_path)
  (tmp_path / 'latin.tsv').write_bytes(b'path\tspeaker\tlabel\n\xe4.wav\ts\tx')
  with pytest.raises(CorpusError, match='is not UTF-8 text'):
    manifest.read_manifest(tmp_path / 'latin.tsv')


def test_a_quote_swallows_no_rows(audio, tmp_path):
  path = table(
    tmp_path,
    'path|speaker|label|text\n'
    'a.wav|s|x|"Hello, he said\nb.wav|s|x|a 5" disc\nc.wav|s|"x"|"so ""ho"""\n',
  )
  read = manifest.read_manifest(path)
  texts = [u.text for u in read.utterances]
  assert texts == ['"Hello, he said', 'a 5" disc', 'so "ho"']
  assert read.classes == ('x',)
  for row in ('a.wav|"s|x', 'a.wav|s|x"y'):
    path = table(tmp_path, f'path|speaker|label\nb.wav|s|x\n{row}\n')
    with pytest.raises(CorpusError, match=r'line 3: .* has a quote in it; clo'):
      manifest.read_manifest(path)


@pytest.mark.parametrize('cell', ['"open', '"closed" early'])
def test_a_csv_is_quoted_properly_or_refused_with_its_line(tmp_path, cell):
  path = tmp_path / 'a.csv'
  path.write_text(f'a,b\n1,"2, ""3"""\n1,{cell}\n4,"5"\n')
  with pytest.raises(CorpusError, match=r'a\.csv: line 3 cannot be read'):
    tables.read_table(path, ['a'])
  path.write_text('a,b\r\n1,"2, ""3"""\r\n\r\n4\r\n')
  assert tables.read_table(path, ['a']) == [
    (2, {'a': '1', 'b': '2, "3"'}),
    (4, {'a': '4', 'b': ''}),
  ]


def test_names_survive_to_the_byte(audio, tmp_path):
  names = ['clip 0', 'clip  0', 'clip\u00a00', ' clip 0', 'clip 0 ', "o'n$ä#"]
  for name in names:
    (tmp_path / f'{name}.wav').write_bytes(b'')
  rows = ''.join(f'{name}.wav|s|x\n' for name in names)
  path = table(tmp_path, f'path|speaker|label\n{rows}')
  read = manifest.read_manifest(path)
  assert [u.id for u in read.utterances] == names
  manifest.write_manifest(read, tmp_path / 'manifest.tsv')
  again = manifest.read_manifest(tmp_path / 'manifest.tsv', corpus='manifest')
  assert again.utterances == read.utterances
  odd = tmp_path / 'a\tb.wav'
  odd.write_bytes(b'')
  broken = make(audio, utterances=(Utterance('a\tb', odd, 'sad', 's'),))
  with pytest.raises(CorpusError, match=r"'a\\tb' has a tab or a line break"):
    manifest.check(broken)
