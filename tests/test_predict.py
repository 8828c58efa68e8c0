"""Prediction as its users run it: every odd file does the right thing."""

import csv
import errno
import io
import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from jaxser import predict as program
from jaxser.core import files
from jaxser.models import audio_features as audio_lib
from jaxser.models import saved as models
from tests import trained

CLASSES = ('angry', 'fear', 'happy', 'neutral', 'sad')


@pytest.fixture(scope='module')
def dsnet(trained_run):
  """A model over log filterbanks, cheap to compute."""
  return trained_run('dsnet')


@pytest.fixture
def predict(capsys, monkeypatch):
  run = trained.predict_program(capsys, monkeypatch)
  return lambda workdir, *rest, **stdin: run(
    f'--checkpoint={workdir}', *rest, **stdin
  )


def rows_of(text):
  return list(csv.DictReader(io.StringIO(text)))


def test_a_table_for_people_and_the_same_numbers_for_programs(
  predict, dsnet, speech
):
  code, table, errors = predict(dsnet.workdir, *speech)
  assert (code, errors) == (0, '')
  head, *lines = table.splitlines()
  assert head.split() == ['file', 'emotion', *CLASSES]
  _, text, _ = predict(dsnet.workdir, '--format=json', *speech)
  content = json.loads(text)
  assert content['model']['system'] == 'dsnet'
  assert content['model']['members'] == [
    {'seed': 0, 'fold': fold, 'selection': 'best_on_dev'} for fold in (0, 1)
  ]
  assert content['failures'] == []
  _, text, _ = predict(dsnet.workdir, '--format=jsonl', *speech)
  by_line = [json.loads(line) for line in text.splitlines()]
  assert by_line == content['recordings']
  _, text, _ = predict(dsnet.workdir, '--format=csv', *speech)
  for line, entry, row in zip(lines, by_line, rows_of(text), strict=True):
    scores = entry['scores']
    assert tuple(scores) == CLASSES
    assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
    assert entry['emotion'] == max(scores, key=scores.get) == row['emotion']
    assert f'  {entry["emotion"]}  ' in line
    assert f'{100 * scores["sad"]:.1f} %' in line
    assert {name: float(row[name]) for name in CLASSES} == scores
    assert row['file'] == entry['file']


def test_the_model_card_is_printed(predict, tmp_path):
  path = tmp_path / 'MODEL_CARD.md'
  code, _, errors = predict(tmp_path, '--model_card')
  assert code == 2
  assert f'{path} cannot be read (No such file' in errors
  path.write_text('# dsnet, 你好\n', encoding='utf-8')
  assert predict(tmp_path, '--model_card') == (0, '# dsnet, 你好\n', '')


def test_vad_comes_with_its_region_in_words(predict, trained_run, speech):
  sphere = trained_run('emosphere')
  code, text, _ = predict(sphere.workdir, '--format=jsonl', speech[0])
  entry = json.loads(text)
  assert code == 0
  signs = ''.join(
    '+' if entry[name] >= 4 else '-'
    for name in ('arousal', 'valence', 'dominance')
  )
  assert entry['region'].endswith('(A{}, V{}, D{})'.format(*signs))
  _, table, _ = predict(sphere.workdir, speech[0])
  head, line = table.splitlines()
  assert head.split() == ['file', 'valence', 'arousal', 'dominance', 'region']
  assert f'{entry["arousal"]:.2f}' in line
  assert line.endswith(entry['region'])


def test_any_rate_and_any_channels_give_the_same(
  predict, dsnet, speech, tmp_path
):
  import soxr

  mono, rate = soundfile.read(speech[0], dtype='float32')
  high = soxr.resample(mono, rate, 44_100)
  path = tmp_path / 'stereo 44.1.flac'
  soundfile.write(path, np.stack([0.5 * high, 0.3 * high], 1) / 0.4, 44_100)
  _, text, _ = predict(dsnet.workdir, '--format=jsonl', speech[0], path)
  first, second = (json.loads(line) for line in text.splitlines())
  assert second['seconds'] == pytest.approx(first['seconds'], abs=1e-3)
  for name in CLASSES:
    assert second['scores'][name] == pytest.approx(
      first['scores'][name], abs=0.02
    )


def test_short_recordings_are_predicted_or_refused_with_the_reason(
  predict, dsnet, speech, tmp_path
):
  wave, rate = soundfile.read(speech[0])
  for name, samples in (('short.wav', rate // 5), ('click.wav', 300)):
    soundfile.write(tmp_path / name, wave[:samples], rate)
  code, text, errors = predict(
    dsnet.workdir,
    '--format=csv',
    tmp_path / 'short.wav',
    tmp_path / 'click.wav',
  )
  short, click = rows_of(text)
  assert code == 1
  assert float(short['seconds']) == 0.2
  assert short['emotion'] in CLASSES
  assert short['error'] == ''
  assert 'lasts 18.8 ms, less than one frame of 40 ms' in click['error']
  assert 'click.wav' in errors
  assert '1 of 2 recordings could not be used.' in errors


def test_ten_minutes_are_cut_with_a_warning_or_taken_apart(
  predict, dsnet, tmp_path
):
  path = tmp_path / 'talk.wav'
  noise = 0.1 * np.random.default_rng(0).standard_normal(600 * 16_000)
  soundfile.write(path, noise, 16_000)
  code, text, errors = predict(dsnet.workdir, '--format=jsonl', path)
  entry = json.loads(text)
  assert code == 0
  extractor = audio_lib.FeatureExtractor.for_model(models.open(dsnet.workdir))
  window = extractor.window
  assert 1 < window < 1.7
  assert (entry['start'], entry['end']) == (0, pytest.approx(window))
  assert f'600.0 s, of which 0.0 to {window:.1f} s were used' in errors
  assert f'--segment={window:.4g} predicts all of a recording' in errors

  page, archive = tmp_path / 'p.html', tmp_path / 'e.npz'
  code, text, errors = predict(
    dsnet.workdir,
    '--format=json',
    '--segment=7',
    f'--plot={page}',
    f'--embeddings={archive}',
    path,
  )
  assert code == 0
  assert f'segments of 7 s are longer than the {window:.2f} s that' in errors
  (entry,) = json.loads(text)['recordings']
  segments = entry['segments']
  assert len(segments) == 86
  assert segments[0]['start'] == 0
  assert segments[-1]['end'] == entry['end'] == 600
  joins = {(a['end'], b['start']) for a, b in itertools.pairwise(segments[:-1])}
  assert all(end == start for end, start in joins)
  means = {
    name: np.mean([s['scores'][name] for s in segments]) for name in CLASSES
  }
  assert entry['scores'] == pytest.approx(means, abs=1e-5)

  assert str(path) in page.read_text()
  assert 'Probability over time' in page.read_text()
  with np.load(archive) as arrays:
    assert arrays['embeddings'].shape == (86, 2, 8)
    assert arrays['members'][0] == 'seed0-fold00.best_on_dev'
    assert set(arrays['files']) == {str(path)}


def test_bad_files_are_listed_with_their_reasons(
  predict, dsnet, speech, tmp_path
):
  (tmp_path / 'empty.wav').write_bytes(b'')
  (tmp_path / 'text.wav').write_text('This is no sound.')
  (tmp_path / 'cut.wav').write_bytes(speech[1].read_bytes()[:9000])
  (tmp_path / 'notes.txt').write_text('not looked at')
  # What an archive made on a Mac holds beside the audio.
  (tmp_path / '__MACOSX').mkdir()
  for name in ('._cut.wav', '__MACOSX/cut.wav'):
    (tmp_path / name).write_bytes(bytes(9))
  good = tmp_path / 'Grüße, 你好 und mehr.wav'
  shutil.copy(speech[0], good)
  code, table, errors = predict(dsnet.workdir, tmp_path, tmp_path / 'gone.wav')
  assert code == 1
  assert len(table.splitlines()) == 2
  assert good.name in table
  for reason in (
    'empty.wav: the file is empty (0 bytes)',
    "text.wav: not readable as audio; the file begins with b'This is no s'",
    'cut.wav: truncated; the header promises',
    'gone.wav: no such file',
    '4 of 5 recordings could not be used.',
  ):
    assert reason in errors
  assert 'notes.txt' not in table + errors
  assert '._cut' not in errors


@pytest.mark.parametrize('workers', [1, 2])
def test_many_files_with_five_bad_ones(
  predict, dsnet, speech, tmp_path, workers
):
  wave, rate = soundfile.read(speech[0])
  soundfile.write(tmp_path / '0000.wav', wave[: 3 * rate // 10], rate)
  (tmp_path / 'bad').mkdir()
  for i in range(5):
    (tmp_path / 'bad' / f'{i}.wav').write_text('?' * i)
  for i in range(1, 95):
    os.link(tmp_path / '0000.wav', tmp_path / f'{i:04d}.wav')
  code, text, errors = predict(
    dsnet.workdir, '--format=csv', f'--num_workers={workers}', tmp_path
  )
  rows = rows_of(text)
  assert code == 1
  assert [r['file'] for r in rows] == sorted(r['file'] for r in rows)
  assert (len(rows), sum(bool(r['error']) for r in rows)) == (100, 5)
  assert len({r['emotion'] for r in rows if not r['error']}) == 1
  assert '5 of 100 recordings could not be used.' in errors


def test_the_standard_input_is_a_file_too(predict, dsnet, speech):
  _, text, _ = predict(dsnet.workdir, '--format=jsonl', speech[0])
  wanted = json.loads(text)
  code, text, _ = predict(
    dsnet.workdir, '--format=jsonl', '-', stdin=speech[0].read_bytes()
  )
  assert code == 0
  assert json.loads(text) == wanted | {'file': '<stdin>'}
  code, _, errors = predict(dsnet.workdir, '-', stdin=b'')
  assert code == 1
  assert '<stdin>: the file is empty (0 bytes)' in errors


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'name files or folders to predict, or - for the standard input'),
    (['a', '--format=xml'], '--format=xml: value should be one of <table|csv'),
    (['a', '--features_on=moon'], 'value should be one of <host|device>'),
    (['a', '--features_on=device'], 'kaldi16k features are computed on the h'),
    (
      ['a', '--selection=worst'],
      '--selection=worst: value should be one of <last|',
    ),
    (['a', '--checkpint=W'], "Unknown command line flag 'checkpint'. Did you"),
    (['a', '--selection=best_on_test'], 'there are best_on_dev, last.'),
    (['a', '--fold=9'], '--fold=9 is not among the weights'),
    (['a', '--segment=-1'], '--segment=-1 must be a number of seconds above'),
    (['a', '--segment=nan'], 'leave it out for one prediction per'),
    (['a', '--num_workers=0'], '--num_workers=0: 0 is not a positive integer'),
    (['-', '-'], 'can be read once; give it once'),
  ],
)
def test_wrong_usage_says_what_to_do_and_exits_with_2(
  predict, dsnet, arguments, message
):
  code, out, errors = predict(dsnet.workdir, *arguments)
  assert (code, out) == (2, '')
  assert message in ' '.join(errors.split())


@pytest.mark.parametrize('flag', ['embeddings', 'plot'])
def test_files_that_cannot_be_written_are_told_before_the_work(
  predict, dsnet, speech, tmp_path, monkeypatch, flag
):
  (tmp_path / 'file').write_text('kept')
  for path, reason in (
    (tmp_path, 'Is a directory'),
    (tmp_path / 'file' / 'x', 'File exists'),
    ('/proc/nope/x', 'No such file or directory'),
  ):
    code, out, errors = predict(dsnet.workdir, f'--{flag}={path}', speech[0])
    assert (code, out) == (2, '')
    assert f'--{flag}={path} cannot be written ({reason}); give' in errors
  assert (tmp_path / 'file').read_text() == 'kept'

  # The disk is full in the end: what was answered stands, without a traceback.
  def full(path, data):
    raise OSError(errno.ENOSPC, 'No space left on device', str(path))

  monkeypatch.setattr(files, 'write_bytes', full)
  out = tmp_path / 'out'
  code, table, errors = predict(dsnet.workdir, f'--{flag}={out}', speech[0])
  assert code == 2
  assert len(table.splitlines()) == 2
  assert f'{out} cannot be written (No space left on device)' in errors
  assert not out.exists()


@pytest.mark.slow
def test_a_full_disk_is_no_traceback(dsnet, speech):
  command = [sys.executable, '-m', 'jaxser.predict', speech[0]]
  command.append(f'--checkpoint={dsnet.workdir}')
  with open('/dev/full', 'w') as full:
    done = subprocess.run(
      command, stdout=full, stderr=subprocess.PIPE, text=True
    )
  assert done.returncode == 2
  assert '(No space left on device)' in done.stderr
  assert 'Traceback' not in done.stderr


def test_an_empty_folder_costs_the_others_nothing(
  predict, dsnet, speech, tmp_path
):
  given = [speech[0], tmp_path, *speech[1:]]
  code, text, errors = predict(dsnet.workdir, '--format=csv', *given)
  rows = rows_of(text)
  assert code == 1
  assert [r['file'] for r in rows] == [str(path) for path in given]
  assert [bool(r['error']) for r in rows] == [False, True, *[False] * 4]
  assert f'{tmp_path}: no audio file in this folder; files ending' in errors
  assert '1 of 6 recordings could not be used.' in errors
  for nothing in ([tmp_path], [tmp_path, tmp_path]):
    code, _, errors = predict(dsnet.workdir, *nothing)
    assert code == 2
    assert 'no audio file in this folder; files ending in .3gp' in errors
  code, _, errors = predict(tmp_path, 'a.wav')
  assert code == 2
  assert 'is no folder of a trained model; give the --workdir' in errors


def test_without_arguments_there_are_examples(capsys):
  assert program.main([]) == 0
  text = capsys.readouterr().out
  assert text.count('python -m jaxser.predict --checkpoint=W') >= 4
  assert 'never taken' in ' '.join(text.split())


def test_an_unfinished_run_predicts_and_says_so(
  predict, dsnet, tmp_path, speech
):
  copy = shutil.copytree(dsnet.workdir, tmp_path / 'W')
  models.path_of(copy, 0, 1, 'best_on_dev').unlink()
  code, _, errors = predict(copy, speech[0])
  assert code == 0
  assert 'is not finished; 1 of 2 models predict.' in errors


class DyingExtractor(audio_lib.FeatureExtractor):
  """Ends its process for the second file."""

  def extract(self, given):
    if given.name.endswith('dies'):
      os._exit(3)
    return audio_lib.AudioFeatures(given.name)


@pytest.mark.slow
def test_a_worker_that_dies_costs_one_file(dsnet, tmp_path):
  made = audio_lib.FeatureExtractor.for_model(models.open(dsnet.workdir))
  extractor = DyingExtractor(**vars(made))
  names = ['0', '1 dies', '2', '3', '4']
  inputs = [audio_lib.Input(name, tmp_path) for name in names]
  found = list(extractor.extract_all(inputs, 2))
  assert [f.name for f in found] == names
  assert [bool(f.error) for f in found] == [False, True, False, False, False]
  assert 'terminated abruptly' in found[1].error


PROGRAM = """
import sys

class Refuse:
  def find_spec(self, name, path=None, target=None):
    refused = ('tensorflow', 'tensorflow_datasets', 'keras', 'librosa', 'numba')
    if name.partition('.')[0] in (*refused, 'sklearn', 'matplotlib', 'jinja2'):
      raise ImportError(f'{name} is not to be imported here')

sys.meta_path.insert(0, Refuse())
from jaxser.predict import main
sys.exit(main())
"""


@pytest.mark.slow
def test_only_what_is_needed_is_imported(dsnet, speech, tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, f'--checkpoint={dsnet.workdir}', speech[0]],
    capture_output=True,
    text=True,
    env={
      **os.environ,
      'JAXSER_CACHE_DIR': str(tmp_path),
      'XLA_FLAGS': '--xla_backend_optimization_level=0',
    },
  )
  assert done.returncode == 0, done.stderr
  assert len(done.stdout.splitlines()) == 2
