"""The Python interface: what docs/api.md shows, and nothing before it is used."""

import pathlib
import re
import shutil
import subprocess
import sys

import pandas
import pytest

import jaxser
from jaxser.core import runtime
from jaxser.models import audio_features
from jaxser.models.output import Recordings

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'api.md'


@pytest.fixture(scope='module')
def folder(tmp_path_factory, speech, trained_run):
  """A run in runs/emodb and two recordings, as the page has them."""
  folder = tmp_path_factory.mktemp('api')
  shutil.copytree(trained_run('dsnet').workdir, folder / 'runs' / 'emodb')
  for name, path in zip(('speech.wav', 'other.wav'), speech, strict=False):
    shutil.copy(path, folder / name)
  return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.setattr(runtime, 'enable_compilation_cache', lambda: None)
  monkeypatch.setattr(runtime, 'keep_freed_memory', lambda: None)


def test_the_page_is_right(monkeypatch, capsys):
  predicting, training = re.findall(
    r'```python\n(.*?)```', PAGE.read_text('utf-8'), re.DOTALL
  )
  exec(predicting, {})
  printed = capsys.readouterr().out
  assert re.search(r'^speech\.wav: \w+ \(angry \d+\.\d %, fear', printed)
  assert '(2, 8)' in printed
  calls = []

  def run(config, workdir):
    calls.append((config.corpus, config.epochs, workdir))
    return {'selections': {'last': {'pooled': 'the scores'}}}

  monkeypatch.setattr('jaxser.engine.train.run', run)
  exec(training, {})
  assert calls == [('demo', 30, 'runs/demo')]
  assert capsys.readouterr().out == 'the scores\n'


def test_results_print_and_become_a_frame(folder, monkeypatch):
  monkeypatch.setenv('HOME', str(folder))
  model = jaxser.load('~/runs/emodb', folds=(0,), segment=0.5)
  assert model.embed('~/speech.wav').shape == (1, 8)
  (given,) = audio_features.find_inputs(['~/speech.wav'], None)
  assert given.source == folder / 'speech.wav'
  found = model.predict(['gone.wav', 'speech.wav'])
  gone, *lines = repr(found).splitlines()
  assert gone.startswith('gone.wav: no such file')
  assert lines[0] == repr(found[1]).splitlines()[0]
  assert len(lines) == 1 + len(found[1].segments) > 2
  frame = found.to_pandas()
  outputs = ['emotion', *model.description.classes]
  columns = ['file', 'seconds', 'start', 'end', *outputs, 'error']
  assert list(frame.columns) == columns
  assert frame.file.tolist() == ['gone.wav', *['speech.wav'] * (len(lines) - 1)]
  assert frame.error[0].startswith('gone.wav: no such file')
  assert frame[list(model.description.classes)].sum(axis=1)[1] == (
    pytest.approx(1, abs=1e-5)
  )
  pandas.testing.assert_frame_equal(
    found[1].to_pandas(), frame[1:].reset_index(drop=True), check_dtype=False
  )
  assert Recordings().to_pandas().empty


def test_what_is_public_is_there_and_imported_when_it_is_used():
  assert jaxser.ops.losses.cross_entropy
  assert jaxser.metrics.uar([[1, 1], [0, 2]]) == 0.75
  assert {'load', 'metrics', 'ops', 'train'} <= set(dir(jaxser))
  with pytest.raises(AttributeError, match="'jaxser' has no attribute 'lod'"):
    jaxser.lod  # noqa: B018, it raises.
  program = (
    'import sys; import jaxser\n'
    "assert not {'jax', 'numpy', 'absl'} & set(sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
