"""The manifest: what a table may hold, and what is said where it may not."""

import dataclasses
import re

import pytest

from data_prep import manifest, tables
from data_prep.manifest import Manifest, Utterance
from data_prep.tables import CorpusError
from tests import trees

HEAD, TEXT = 'path|speaker|label', 'path|speaker|text|label'


@pytest.fixture
def audio(tmp_path):
  """Three files; their content is not the manifest's business."""
  trees.touch(tmp_path, 'a.wav', 'b.wav', 'c.wav')
  return [tmp_path / f'{name}.wav' for name in ('a', 'b', 'c')]


def make(audio, **changes):
  rows = (
    Utterance('u1', audio[0], 'angry', 's1', 'female', 'x', 'train', 2.0, 3, 4),
    Utterance('u2', audio[1], 'sad', 's2', 'male', 'say "hi"'),
    Utterance('u10', audio[2], 'sad', 's2', valence=1.0, arousal=5.0),
  )
  values = {'corpus': 'synthetic', 'classes': ('angry', 'sad')}
  values |= {'vad_range': (1.0, 5.0), 'root': audio[0].parent}
  return Manifest(**(values | {'utterances': rows} | changes))


def make_one(audio, **changes):
  """With its first row changed, and as the only one."""
  first = make(audio).utterances[0]
  return make(audio, utterances=(dataclasses.replace(first, **changes),))


def table(tmp_path, text, name='mine.tsv'):
  path = tmp_path / name
  path.write_text(text.replace('|', '\t'), encoding='utf-8')
  return path


def refused(message, function, *given, **options):
  with pytest.raises(CorpusError, match=message) as error:
    function(*given, **options)
  return str(error.value)


def test_a_written_manifest_is_read_back_equal(audio, tmp_path):
  path = tmp_path / 'manifest.tsv'
  written = make(audio)
  manifest.write_manifest(written, path, [1.25, 0.1, 3.0])
  lines = path.read_text('utf-8').splitlines()
  assert lines[0].split('\t') == list(manifest.COLUMNS)
  first = 'u1|a.wav|angry|s1|female|x|train|1.25|2.0|3|4'
  assert lines[1].split('\t') == first.split('|')
  read = manifest.read_manifest(path, corpus='synthetic', vad_range=(1.0, 5.0))
  assert read == written


def test_a_failed_write_leaves_the_old_table_alone(audio, tmp_path):
  path = tmp_path / 'manifest.tsv'
  manifest.write_manifest(make(audio), path)
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  with pytest.raises(ValueError, match='shorter'):
    manifest.write_manifest(make(audio), path, [1.0])
  assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_a_transcript_stays_on_one_line(audio, tmp_path):
  path = tmp_path / 'manifest.tsv'
  manifest.write_manifest(make_one(audio, text='a\tb\nc'), path)
  assert len(path.read_text('utf-8').splitlines()) == 2
  read = manifest.read_manifest(path, vad_range=(1, 5))
  assert read.utterances[0].text == 'a b c'


def test_natural_order():
  names = ['a10', 'A2', 'a2', 'b', 'a', '10', '9']
  ordered = ['9', '10', 'a', 'A2', 'a2', 'a10', 'b']
  assert sorted(names, key=tables.natural_key) == ordered


NO_VAD = {'valence': None, 'arousal': None, 'dominance': None}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'id': 'u2'}, r"(?s)b\.wav: id 'u2' is used by 2 files, .* is .*a\.wav"),
    (
      {'label': 'Angry'},
      r"a\.wav: label 'Angry' is unknown; allowed: angry, s",
    ),
    ({'arousal': 5.5}, r'a\.wav: arousal 5.5 is outside the scale 1 to 5'),
    ({'valence': float('inf')}, 'valence inf is outside the scale'),
    ({'label': '', **NO_VAD}, 'has neither a label nor valence, arousal and'),
    ({'label': '', 'valence': None}, 'valence missing; VAD needs all three'),
    ({'id': ''}, 'the id is empty'),
    ({'id': 'a\tb'}, r"'a\\tb' has a tab or a line break in it; rename it"),
  ],
)
def test_each_broken_rule_is_named(audio, change, message):
  first, *others = make(audio).utterances
  rows = (dataclasses.replace(first, **change), *others)
  said = refused(message, manifest.check, make(audio, utterances=rows))
  assert '1 of 3 utterances' in said
  assert '--on_error=skip' in said


def test_an_empty_manifest_says_what_was_left_out(audio):
  rejected = (manifest.Rejected(audio[0], 'is a song'),)
  empty = make(audio, utterances=(), rejected=rejected)
  message = r"(?s)no utterance of 'synthetic'.*a\.wav: is a song"
  refused(message, manifest.check, empty)


def test_vad_without_a_scale_is_refused(audio):
  bare = make(audio, vad_range=None)
  refused('range of the scale is not known', manifest.check, bare)


def test_a_users_table(audio, tmp_path):
  path = table(
    tmp_path,
    'speaker|path|label|mood|gender|split\n'
    'ann|b.wav|tired|7|F|Development\nbob|a.wav|alert||m|Train\n',
  )
  read = manifest.read_manifest(path)
  # Rows keep their order, classes are sorted, other columns do not matter.
  first = Utterance('b', audio[1], 'tired', 'ann', 'female', '', 'dev')
  second = Utterance('a', audio[0], 'alert', 'bob', 'male', '', 'train')
  assert read.utterances == (first, second)
  assert (read.classes, read.vad_range) == (('alert', 'tired'), None)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', "column 'path', 'speaker' is missing"),
    ('path|label\na.wav|x\n', "column 'speaker' is missing"),
    ('path|speaker\na.wav|s\n', 'neither a column label nor the columns'),
    (f'{HEAD}\n', 'has a header and no rows'),
    (
      f'{HEAD}\n|s|x\n',
      'line 2 of mine.tsv: cannot be read: the path is empty',
    ),
    (
      f'{HEAD}\na.wav|s|x\na.wav|s|x\n',
      "line 3 of mine.tsv: id 'a' is used by",
    ),
    (
      f'{HEAD}|valence\na.wav|s|x|high\n',
      "not convert string to float: 'high'",
    ),
    (
      f'{HEAD}\nz.wav|s|x\n',
      'z.wav: line 2 of mine.tsv: there is no such file',
    ),
    (f'{HEAD}\na.wav||x\n', 'the speaker is missing'),
    (f'{HEAD}|label\na.wav|s|x|y\n', "more than one column 'label'"),
    (f'{HEAD}\na.wav|s|x|y\n', 'line 2 has 4 cells and the header'),
    (
      f'{TEXT}\na.wav|s|"two\nlines"|x\n',
      'line 2 ends inside of a quoted cell',
    ),
    (
      f'{HEAD}|text\na.wav|s|x|{"x" * 131_073}\n',
      'line 2 has a cell of 131,073',
    ),
    (
      f'{HEAD}\nb.wav|s|x\na.wav|"s|x\n',
      "line 3: speaker '\"s' has a quote in",
    ),
    (
      f'{HEAD}\nb.wav|s|x\na.wav|s|x"y\n',
      "line 3: label 'x\"y' has a quote in",
    ),
  ],
)
def test_a_users_mistakes(audio, tmp_path, text, message):
  path = table(tmp_path, text)
  message = re.escape(message)
  said = refused(message, manifest.read_manifest, path, vad_range=(1, 5))
  assert str(path) in said


def test_broken_rows_can_be_skipped(audio, tmp_path):
  path = table(tmp_path, f'{HEAD}\na.wav|s|x\nz.wav|s|x\nb.wav||x\n')
  read = manifest.read_manifest(path, on_error='skip')
  assert [u.id for u in read.utterances] == ['a']
  assert [(r.path.name, r.reason[:18]) for r in read.rejected] == [
    ('z.wav', 'line 3 of mine.tsv'),
    ('b.wav', 'line 4 of mine.tsv'),
  ]


def test_a_table_that_is_not_there_or_not_text(tmp_path):
  latin = tmp_path / 'latin.tsv'
  latin.write_bytes(b'path\tspeaker\tlabel\n\xe4.wav\ts\tx')
  none = tmp_path / 'none.tsv'
  refused('none.tsv: there is no such file', manifest.read_manifest, none)
  refused('is a folder', manifest.read_manifest, tmp_path)
  refused('latin.tsv: is not UTF-8 text', manifest.read_manifest, latin)


def test_a_quote_swallows_no_rows(audio, tmp_path):
  path = table(
    tmp_path,
    f'{HEAD}|text\n'
    'a.wav|s|x|"Hello, he said\nb.wav|s|x|a 5" disc\nc.wav|s|"x"|"so ""ho"""\n',
  )
  read = manifest.read_manifest(path)
  texts = [u.text for u in read.utterances]
  assert texts == ['"Hello, he said', 'a 5" disc', 'so "ho"']
  assert read.classes == ('x',)


@pytest.mark.parametrize('cell', ['"open', '"closed" early'])
def test_a_csv_is_quoted_properly_or_refused_with_its_line(tmp_path, cell):
  path = tmp_path / 'a.csv'
  path.write_text(f'a,b\n1,"2, ""3"""\n1,{cell}\n4,"5"\n')
  refused(r'a\.csv: line 3 cannot be read', tables.read_table, path, ['a'])
  path.write_text('a,b\r\n1,"2, ""3"""\r\n\r\n4\r\n')
  rows = [(2, {'a': '1', 'b': '2, "3"'}), (4, {'a': '4', 'b': ''})]
  assert tables.read_table(path, ['a']) == rows


def test_names_survive_to_the_byte(tmp_path):
  names = ['clip 0', 'clip  0', 'clip\u00a00', ' clip 0', 'clip 0 ', "o'n$ä#"]
  trees.touch(tmp_path, *(f'{name}.wav' for name in names))
  rows = ''.join(f'{name}.wav|s|x\n' for name in names)
  read = manifest.read_manifest(table(tmp_path, f'{HEAD}\n{rows}'))
  assert [u.id for u in read.utterances] == names
  manifest.write_manifest(read, tmp_path / 'manifest.tsv')
  again = manifest.read_manifest(tmp_path / 'manifest.tsv', corpus='manifest')
  assert again.utterances == read.utterances
