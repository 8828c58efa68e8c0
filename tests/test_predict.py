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
import soxr

from jaxser import predict as program
from jaxser.core import files
from jaxser.models import audio_features as audio_lib
from jaxser.models import saved as models
from jaxser.models.output import Recording
from tests import trained

CLASSES = ('angry', 'fear', 'happy', 'neutral', 'sad')


@pytest.fixture(scope='module')
def dsnet(trained_run):
  """The folder of a model over log filterbanks, cheap to compute."""
  return trained_run('dsnet').workdir


@pytest.fixture
def predict(capsys, monkeypatch):
  run = trained.predict_program(capsys, monkeypatch)
  return lambda workdir, *rest, **stdin: run(
    f'--checkpoint={workdir}', *rest, **stdin
  )


@pytest.fixture
def entries(predict):
  """Predicts; returns the exit code, a dict per recording, and the errors."""

  def run(*arguments, **stdin):
    code, text, errors = predict(*arguments, '--format=jsonl', **stdin)
    return code, [json.loads(line) for line in text.splitlines()], errors

  return run


def rows_of(text):
  return list(csv.DictReader(io.StringIO(text)))


def test_a_table_for_people_and_the_same_numbers_for_programs(
  predict, entries, dsnet, speech
):
  code, table, errors = predict(dsnet, *speech)
  assert (code, errors) == (0, '')
  head, *lines = table.splitlines()
  assert head.split() == ['file', 'emotion', *CLASSES]
  content = json.loads(predict(dsnet, '--format=json', *speech)[1])
  assert content['model']['system'] == 'dsnet'
  assert content['model']['members'] == [
    {'seed': 0, 'fold': fold, 'selection': 'best_on_dev'} for fold in (0, 1)
  ]
  assert content['failures'] == []
  by_line = entries(dsnet, *speech)[1]
  assert by_line == content['recordings']
  rows = rows_of(predict(dsnet, '--format=csv', *speech)[1])
  for line, entry, row in zip(lines, by_line, rows, strict=True):
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


def test_vad_comes_with_its_region_in_words(
  predict, entries, trained_run, speech
):
  sphere = trained_run('emosphere').workdir
  code, (entry,), _ = entries(sphere, speech[0])
  assert code == 0
  signs = ''.join(
    '+' if entry[name] >= 4 else '-'
    for name in ('arousal', 'valence', 'dominance')
  )
  assert entry['region'].endswith('(A{}, V{}, D{})'.format(*signs))
  head, line = predict(sphere, speech[0])[1].splitlines()
  assert head.split() == ['file', 'valence', 'arousal', 'dominance', 'region']
  assert f'{entry["arousal"]:.2f}' in line
  assert line.endswith(entry['region'])


def test_any_source_rate_and_channels_give_the_same(
  entries, dsnet, speech, tmp_path
):
  mono, rate = soundfile.read(speech[0], dtype='float32')
  high = soxr.resample(mono, rate, 44_100)
  path = tmp_path / 'stereo 44.1.flac'
  soundfile.write(path, np.stack([0.5 * high, 0.3 * high], 1) / 0.4, 44_100)
  _, (first, second), _ = entries(dsnet, speech[0], path)
  assert second['seconds'] == pytest.approx(first['seconds'], abs=1e-3)
  assert second['scores'] == pytest.approx(first['scores'], abs=0.02)
  # The standard input is a file, too.
  code, (piped,), _ = entries(dsnet, '-', stdin=speech[0].read_bytes())
  assert code == 0
  assert piped == first | {'file': '<stdin>'}
  code, _, errors = entries(dsnet, '-', stdin=b'')
  assert code == 1
  assert '<stdin>: the file is empty (0 bytes)' in errors


def test_ten_minutes_are_cut_with_a_warning_or_taken_apart(
  predict, entries, dsnet, tmp_path
):
  path = tmp_path / 'talk.wav'
  noise = 0.1 * np.random.default_rng(0).standard_normal(600 * 16_000)
  soundfile.write(path, noise, 16_000)
  code, (entry,), errors = entries(dsnet, path)
  assert code == 0
  extractor = audio_lib.FeatureExtractor.for_model(models.open(dsnet))
  window = extractor.window
  assert 1 < window < 1.7
  assert (entry['start'], entry['end']) == (0, pytest.approx(window))
  assert f'600.0 s, of which 0.0 to {window:.1f} s were used' in errors
  assert f'--segment={window:.4g} predicts all of a recording' in errors

  page, archive = tmp_path / 'p.html', tmp_path / 'e.npz'
  flags = ['--segment=7', f'--plot={page}', f'--embeddings={archive}']
  code, (entry,), errors = entries(dsnet, *flags, path)
  assert code == 0
  assert f'segments of 7 s are longer than the {window:.2f} s that' in errors
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
  wave, rate = soundfile.read(speech[0])
  soundfile.write(tmp_path / 'click.wav', wave[:300], rate)
  soundfile.write(
    tmp_path / 'Grüße, 你好 und mehr.wav', wave[: rate // 5], rate
  )
  # What an archive made on a Mac holds beside the audio.
  (tmp_path / '__MACOSX').mkdir()
  for name in ('._cut.wav', '__MACOSX/cut.wav'):
    (tmp_path / name).write_bytes(bytes(9))
  (nothing := tmp_path / 'empty folder').mkdir()
  given = [tmp_path, nothing, tmp_path / 'gone.wav']
  code, text, errors = predict(dsnet, '--format=csv', *given)
  assert code == 1
  good, *bad = rows_of(text)
  assert good['file'].endswith('Grüße, 你好 und mehr.wav')
  assert (float(good['seconds']), good['error']) == (0.2, '')
  assert good['emotion'] in CLASSES
  for row, reason in zip(
    bad,
    (
      'click.wav: lasts 18.8 ms, less than one frame of 40 ms',
      'cut.wav: truncated; the header promises',
      'empty.wav: the file is empty (0 bytes)',
      "text.wav: not readable as audio; the file begins with b'This is no s'",
      'empty folder: no audio file in this folder; files ending in .3gp',
      'gone.wav: no such file',
    ),
    strict=True,
  ):
    assert reason in row['error']
    assert row['error'] in errors
  assert '6 of 7 recordings could not be used.' in errors
  for arguments in ([nothing], [nothing, nothing]):
    code, _, errors = predict(dsnet, *arguments)
    assert code == 2
    assert 'no audio file in this folder; files ending in .3gp' in errors


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
    dsnet, '--format=csv', f'--num_workers={workers}', tmp_path
  )
  rows = rows_of(text)
  assert code == 1
  assert [r['file'] for r in rows] == sorted(r['file'] for r in rows)
  assert (len(rows), sum(bool(r['error']) for r in rows)) == (100, 5)
  assert len({r['emotion'] for r in rows if not r['error']}) == 1
  assert '5 of 100 recordings could not be used.' in errors


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
    (['a', '--checkpoint=.'], 'is no folder of a trained model; give the --wo'),
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
  code, out, errors = predict(dsnet, *arguments)
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
    code, out, errors = predict(dsnet, f'--{flag}={path}', speech[0])
    assert (code, out) == (2, '')
    assert f'--{flag}={path} cannot be written ({reason}); give' in errors
  assert (tmp_path / 'file').read_text() == 'kept'

  # The disk is full in the end: what was answered stands, without a traceback.
  def full(path, data):
    raise OSError(errno.ENOSPC, 'No space left on device', str(path))

  monkeypatch.setattr(files, 'write_bytes', full)
  out = tmp_path / 'out'
  code, table, errors = predict(dsnet, f'--{flag}={out}', speech[0])
  assert code == 2
  assert len(table.splitlines()) == 2
  assert f'{out} cannot be written (No space left on device)' in errors
  assert not out.exists()


def test_without_arguments_there_are_examples(capsys):
  assert program.main([]) == 0
  text = capsys.readouterr().out
  assert text.count('python -m jaxser.predict --checkpoint=W') >= 4
  assert 'never taken' in ' '.join(text.split())


def test_an_unfinished_run_predicts_and_says_so(
  predict, dsnet, tmp_path, speech
):
  copy = shutil.copytree(dsnet, tmp_path / 'W')
  models.path_of(copy, 0, 1, 'best_on_dev').unlink()
  code, _, errors = predict(copy, speech[0])
  assert code == 0
  assert 'is not finished; 1 of 2 models predict.' in errors


class DyingExtractor(audio_lib.FeatureExtractor):
  """Ends its process for the second file."""

  def extract(self, given):
    if given.name.endswith('dies'):
      os._exit(3)
    return Recording(name=given.name), []


@pytest.mark.slow
def test_a_worker_that_dies_costs_one_file(dsnet, tmp_path):
  made = audio_lib.FeatureExtractor.for_model(models.open(dsnet))
  names = ['0', '1 dies', '2', '3', '4']
  inputs = [audio_lib.Input(name, tmp_path) for name in names]
  found = [f for f, _ in DyingExtractor(**vars(made)).extract_all(inputs, 2)]
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
import jaxser.models.audio_features
assert 'jax' not in sys.modules
from jaxser.predict import main
sys.exit(main())
"""


@pytest.mark.slow
def test_only_what_is_needed_is_imported_and_a_full_disk_is_no_traceback(
  dsnet, speech, tmp_path
):
  command = [sys.executable, '-c', PROGRAM, f'--checkpoint={dsnet}', speech[0]]
  environment = {
    **os.environ,
    'JAXSER_CACHE_DIR': str(tmp_path),
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
  }
  done = subprocess.run(
    command, capture_output=True, text=True, env=environment
  )
  assert done.returncode == 0, done.stderr
  assert len(done.stdout.splitlines()) == 2
  with open('/dev/full', 'w') as full:
    done = subprocess.run(
      command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment
    )
  assert done.returncode == 2
  assert '(No space left on device)' in done.stderr
  assert 'Traceback' not in done.stderr
