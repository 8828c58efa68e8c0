"""`python -m data_prep` as its users meet it: help, messages, exit codes."""

import csv
import dataclasses
import json
import os
import pathlib
import re
import wave

import numpy as np
import pytest

from data_prep import __main__ as program
from data_prep import corpora, prepare
from data_prep import manifest as manifest_lib


def run(*arguments):
  """Runs the program in this process; see `capsys` for what it said."""
  return program.run([*map(str, arguments)])


def prepare_tiny(tiny, out, *more):
  """Prepares the corpus of four files as it is most often done."""
  given = [f'--audio_dir={tiny}', f'--data_dir={out}', '--signal_length=8000']
  return run('--corpus=emodb', *given, '--num_workers=1', *more)


def write_wav(path, seconds=0.3, rate=16_000, channels=1):
  """A short tone."""
  path.parent.mkdir(parents=True, exist_ok=True)
  time = np.arange(int(seconds * rate)) / rate
  samples = (3000 * np.sin(2 * np.pi * 220 * time)).astype('<i2')
  with wave.open(str(path), 'wb') as file:
    file.setparams((channels, 2, rate, 0, 'NONE', ''))
    file.writeframes(np.repeat(samples, channels).tobytes())


@pytest.fixture
def tiny(monkeypatch, tmp_path):
  """A corpus of four files with names of EMODB, complete for this test."""
  ids = '03 a01 Wa\n03 a02 Nc\n08 a01 Wa\n08 b10 Fd'
  classes = {'angry': 2, 'happy': 1, 'neutral': 1}
  emodb = corpora.CORPORA['emodb']
  spec = dataclasses.replace(emodb, classes=classes, speakers=2, ids=ids)
  monkeypatch.setitem(corpora.CORPORA, 'emodb', spec)
  for index, line in enumerate(ids.splitlines()):
    name = ''.join(line.split())
    write_wav(tmp_path / 'audio' / f'{name}.wav', 0.2 + 0.1 * index)
  return tmp_path / 'audio'


def table_of(path):
  with open(path, encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file, delimiter='\t'))


def only(folder, pattern):
  (found,) = folder.glob(pattern)
  return found


def test_help_explains_everything(capsys):
  assert run('--help') == 0
  text = capsys.readouterr().out
  for arguments in ((), ('-h',)):
    assert run(*arguments) == 0
    assert capsys.readouterr().out == text
  for name, spec in corpora.CORPORA.items():
    assert f'  {name:12}{spec.title}:' in text
    assert spec.licence in text
    assert f'{spec.signal_length:,}' in text
  for word in ('rejected.tsv', 'JAXSER_DATA_DIR', 'angry 127, boredom 81'):
    assert word in text
  for name in ('librosa22k', 'kaldi16k', 'wave16k', 'egemaps', 'wavlm'):
    assert f'\n  {name}' in text
  for flag in program.FLAGS:
    assert re.search(rf'\n  --(\[no\])?{flag}: ', text)
  # Usage and three examples.
  assert text.count('  python -m data_prep --corpus=') == 4
  assert max(map(len, text.splitlines())) <= 90


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('--corpse=emodb', "Unknown command line flag 'corpse'"),
    ('--audio_dir=x', '--corpus is missing; choose one of demo, emodb'),
    ('--corpus=emo', '--corpus=emo: is unknown; choose one of demo'),
    ('emodb', "unexpected argument 'emodb'"),
    ('--corpus=emodb', '--audio_dir is missing: give the folder that holds'),
    ('--corpus=emodb --features=mfcc', 'librosa22k|kaldi16k|wave16k'),
    ('--corpus=emodb --on_error=ignore', '<raise|skip>'),
    ('--corpus=emodb --num_workers=0', 'num_workers'),
    ('--corpus=emodb --signal_length=long', "'long'"),
    ('--corpus=emodb --signal_length=0', 'must be a number of samples'),
    (
      '--corpus=emodb --signal_length=9 --features=wave16k',
      '--signal_length=9: goes with --features=librosa22k only',
    ),
    ('--corpus=emodb --layer=3', 'goes with --features=wavlm only'),
    ('--corpus=demo --features=wavlm', '--weights=: --features=wavlm needs'),
    ('--corpus=emodb --audio_dir=x --rows=all', '--rows: is not an option of'),
    ('--corpus=manifest', 'give your table as --manifest=FILE.tsv'),
    ('--manifest=x --vad_range=7,1', '--vad_range=7,1: must be the lowest and'),
    ('--manifest=/none.tsv', '/none.tsv: there is no such file'),
  ],
)
def test_mistakes_get_one_message_and_status_2(
  capsys, tmp_path, arguments, message
):
  assert run(*arguments.split(), f'--data_dir={tmp_path}') == 2
  said = capsys.readouterr()
  assert message in said.err
  assert said.err.startswith('Error: ')
  assert 'Traceback' not in said.err
  assert list(tmp_path.iterdir()) == []


def test_from_audio_to_store(capsys, tiny, tmp_path):
  out = tmp_path / 'my stores'
  assert prepare_tiny(tiny, out) == 0
  said = capsys.readouterr().out
  found = only(out, 'emodb/librosa22k-*/1.0.0')
  for text in (
    f'EMODB: 4 utterances in {tiny}',
    '3 classes: angry 2, happy 1, neutral 1',
    '2 speakers: 03 2, 08 2',
    str(found),
    'python -m jaxser.main --config=configs/timnet.py:corpus=emodb,'
    f"protocol=published '--config.data_dir={out}' "
    '--config.features.signal_length=8000 --workdir=runs/emodb',
  ):
    assert text in said
  rows = table_of(found / 'manifest.tsv')
  assert [(r['id'], r['path'], float(r['duration'])) for r in rows] == [
    ('03a01Wa', '03a01Wa.wav', 0.2),
    ('08a01Wa', '08a01Wa.wav', 0.4),
    ('08b10Fd', '08b10Fd.wav', 0.5),
    ('03a02Nc', '03a02Nc.wav', 0.3),
  ]
  info = json.loads((found / 'store.json').read_text('utf-8'))
  assert info['classes'] == ['angry', 'happy', 'neutral']
  assert info['parameters']['signal_length'] == 8000
  # The second time there is nothing to do; another length is another store.
  assert prepare_tiny(tiny, out) == 0
  assert 'nothing to do' in capsys.readouterr().out
  assert prepare_tiny(tiny, out, '--signal_length=9000') == 0
  assert len(list(out.glob('emodb/librosa22k-*/1.0.0'))) == 2


def test_incomplete_and_unusable_audio(capsys, tiny, tmp_path):
  out = tmp_path / 'out'
  (tiny / '08b10Fd.wav').unlink()
  bad = tiny / '08a01Wa.wav'
  bad.write_bytes(bad.read_bytes()[:2000])
  assert prepare_tiny(tiny, out) == 2
  error = capsys.readouterr().err
  for text in ('3 of 4 utterances', 'class happy: 0 of 1', '    08b10Fd'):
    assert text in error
  assert not out.exists()
  assert prepare_tiny(tiny, out, '--allow_incomplete') == 2
  said = capsys.readouterr()
  assert 'Not the published corpus' in said.out
  assert f'{bad}: truncated' in said.err
  assert '--on_error=skip' in said.err
  assert list(out.glob('emodb/*/1.0.0')) == []
  (tiny / 'stray.wav').write_bytes(b'')
  assert prepare_tiny(tiny, out, '--allow_incomplete', '--on_error=skip') == 0
  found = only(out, 'emodb/*/1.0.0')
  rejected = table_of(found / 'rejected.tsv')
  names = [pathlib.Path(r['path']).name for r in rejected]
  assert names == ['stray.wav', '08a01Wa.wav']
  assert 'the name is not one of EMODB' in rejected[0]['reason']
  assert len(table_of(found / 'manifest.tsv')) == 2


def test_own_corpus_as_waveforms(capsys, tmp_path):
  write_wav(tmp_path / 'a.wav', rate=44_100, channels=2)
  write_wav(tmp_path / 'b.wav', rate=11_025)
  (tmp_path / 'mine.tsv').write_text(
    'path\tspeaker\tvalence\tarousal\tdominance\n'
    'b.wav\tann\t1\t2\t3\na.wav\tbob\t7\t6.5\t5\n'
  )
  arguments = [f'--manifest={tmp_path / "mine.tsv"}', '--features=wave16k']
  arguments += [f'--data_dir={tmp_path / "out"}', '--num_workers=1']
  assert run(*arguments) == 2
  assert '--vad_range=1,7' in capsys.readouterr().err
  assert run(*arguments, '--vad_range=1,7') == 0
  said = capsys.readouterr().out
  assert 'VAD on 1 to 7: 2 utterances' in said
  assert 'configs/emosphere.py:corpus=mine,protocol=published' in said
  found = only(tmp_path / 'out', 'mine/wave16k-*/1.0.0')
  rows = table_of(found / 'manifest.tsv')
  assert [(r['id'], r['arousal']) for r in rows] == [('b', '2.0'), ('a', '6.5')]
  info = json.loads((found / 'store.json').read_text('utf-8'))
  assert (info['classes'], info['vad_range']) == ([], [1.0, 7.0])


def test_places(monkeypatch, capsys, tiny, tmp_path):
  arguments = ['--corpus=emodb', '--audio_dir=~/audio', '--num_workers=1']
  arguments += ['--features=kaldi16k']
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('JAXSER_DATA_DIR', '~/place')
  assert run(*arguments) == 0
  only(tmp_path, 'place/emodb/kaldi16k-*/1.0.0')
  start = 'python -m jaxser.main --config=configs'
  rest = 'corpus=emodb,protocol=published --workdir=runs/emodb'
  assert (
    f'Next:  {start}/dsnet.py:{rest}\nor:    {start}/baseline.py:{rest}\n'
    'DSNet as published is for a GPU; on a CPU add ",size=tiny" to its --config.'
  ) in capsys.readouterr().out
  assert run(*arguments, '--data_dir=~/o') == 0
  only(tmp_path, 'o/emodb/kaldi16k-*/1.0.0')
  (tmp_path / 'file').write_bytes(b'')
  for chosen in (arguments, ['--corpus=demo']):
    assert run(*chosen, f'--data_dir={tmp_path}/file') == 2
    assert str(tmp_path / 'file') in capsys.readouterr().err
  monkeypatch.delenv('HOME')
  monkeypatch.delenv('JAXSER_DATA_DIR')
  monkeypatch.setattr(os.path, 'expanduser', lambda path: path)  # Unknown user.
  assert run(*arguments, '--data_dir=~/o') == 2
  assert 'HOME is not set' in capsys.readouterr().err
  assert run('--help') == 0
  assert 'There is no home folder' in capsys.readouterr().err
  assert prepare_tiny(tiny, tmp_path / 'none') == 0


def test_a_vad_corpus_is_shown_its_recipe(tmp_path):
  row = manifest_lib.Utterance('u', tmp_path, 'sad', 's')
  about = 'emotale', ('sad',), (1.0, 5.0), (row,), tmp_path
  given = manifest_lib.Manifest(*about), 'kaldi16k', tmp_path, {}
  shown = '\n'.join(prepare.next_commands(*given))
  assert re.findall(r'configs/(\w+)', shown)[:2] == ['emosphere', 'dsnet']
