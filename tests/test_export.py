"""What is exported predicts the same without jaxser."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export as jax_export

from jaxser import export
from jaxser.models import predictor
from jaxser.models import saved as models
from jaxser.models.audio_features import Input
from tests import trained

DOCUMENT = pathlib.Path(__file__).parents[1] / 'docs' / 'export.md'


def predictions(workdir, paths, **options):
  """Of the ensemble, by jaxser itself; its features and their lengths."""
  loaded = predictor.load(workdir, **options)
  found = [[*(r.vad or r.scores).values()] for r in loaded.predict(paths)]
  inputs = [Input(str(path), path) for path in paths]
  pieces = [loaded.extractor.extract(i)[1][0] for i in inputs]
  rows = np.zeros((len(pieces), *loaded.extractor.row_shape), np.float32)
  for row, piece in zip(rows, pieces, strict=True):
    row[: len(piece)] = piece
  return np.array(found), rows, np.array([*map(len, pieces)], np.int32)


def run_export(workdir, out, *arguments):
  code = export.main([f'--checkpoint={workdir}', f'--out={out}', *arguments])
  assert code == 0
  about = json.loads(pathlib.Path(f'{out}.json').read_text())
  return about, out.read_bytes()


@pytest.mark.parametrize('name', list(trained.SMALL))
def test_any_batch_size_gives_what_predict_gives(
  trained_run, speech, tmp_path, name
):
  workdir = trained_run(name).workdir
  wanted, features, lengths = predictions(workdir, speech)
  about, data = run_export(workdir, tmp_path / 'm')
  model = jax_export.deserialize(bytearray(data))
  assert model.platforms == ('cpu', 'cuda', 'tpu')
  (output,) = about['outputs']
  assert output['name'] == ('vad' if name == 'emosphere' else 'scores')
  found = model.call(features, lengths)[output['name']]
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
  assert [i['shape'][0] for i in about['inputs']] == ['batch', 'batch']
  assert about['inputs'][0]['shape'][1:] == list(features.shape[1:])
  assert about['features'] == models.open(workdir).content['features']
  assert about['classes'] == ['angry', 'fear', 'happy', 'neutral', 'sad']
  assert [m['fold'] for m in about['members']] == [0, 1]


def test_from_the_waveform_with_a_fixed_batch(trained_run, speech, tmp_path):
  workdir = trained_run('timnet').workdir
  wanted, signals, _ = predictions(workdir, speech[:3], features_on='device')
  flags = ['--with_features', '--batch=3']
  about, data = run_export(workdir, tmp_path / 'm', *flags)
  assert about['inputs'][0]['shape'] == [3, 33_000]
  model = jax_export.deserialize(bytearray(data))
  found = model.call(signals)['scores']
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
  with pytest.raises(
    ValueError, match=r'expected \(3, 33000\) and called with'
  ):
    model.call(signals[:2])


@pytest.mark.slow
def test_the_documented_example_runs_where_only_jax_is_installed(
  trained_run, tmp_path
):
  """The code block of docs/export.md, with what its install line installs."""
  workdir = trained_run('timnet').workdir
  run_export(workdir, tmp_path / 'model.stablehlo', '--platforms=cpu')
  text = DOCUMENT.read_text()
  (code,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  (line,) = re.findall(r'^    pip install (jax .*)$', text, re.MULTILINE)
  assert len([line for line in code.splitlines() if line]) <= 10
  # Nothing but these and what they need is found.
  needed = ('jaxlib', 'ml_dtypes', 'numpy', 'numpy.libs', 'opt_einsum', 'scipy')
  site = pathlib.Path(jax_export.__file__).parents[1]
  for name in (*line.split(), *needed, 'scipy.libs'):
    if (site / name).exists():
      (tmp_path / name).symlink_to(site / name)
  for works in (True, False):
    done = subprocess.run(
      [sys.executable, '-S', '-c', code],
      cwd=tmp_path,
      capture_output=True,
      text=True,
      env={'PYTHONPATH': str(tmp_path), 'JAX_PLATFORMS': 'cpu'},
    )
    assert (done.returncode == 0) is works, done.stderr
    if works:
      assert "['angry', 'fear', 'happy', 'neutral', 'sad'] [[" in done.stdout
      (tmp_path / 'flatbuffers').unlink()
    else:
      assert 'flatbuffers' in done.stderr


def test_parameters_by_name(trained_run, tmp_path):
  run, out = trained_run('dsnet'), tmp_path / 'w.safetensors'
  flag = '--format=safetensors'
  about, _ = run_export(run.workdir, out, flag, '--fold=1')
  assert about['members'] == [
    {'seed': 0, 'fold': 1, 'selection': 'best_on_dev'}
  ]
  found = safetensors.numpy.load_file(out)
  assert {name.partition('/')[0] for name in found} == {'params', 'state'}
  leaves = jax.tree.leaves(run.weights[0, 1, 'best_on_dev'])
  assert sum(v.size for v in found.values()) == sum(map(np.size, leaves))
  run_export(run.workdir, out, flag)
  assert set(safetensors.numpy.load_file(out)) == {
    f'seed0-fold{fold:02d}/{name}' for fold in (0, 1) for name in found
  }


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'give --out=FILE, such as --out=model.stablehlo'),
    (['--out=x', '--format=onnx'], 'should be one of <stablehlo'),
    (['--out=x', '--platforms=abacus'], 'choose from cpu,'),
    (['--out=x', '--batch=-1'], 'not a non-negative'),
    (['--out=x', '--checkpoint=W'], 'is no folder of a trained model'),
    (['--out=x', '--with_features'], '--with_features cannot compute kaldi16k'),
  ],
)
def test_wrong_usage_says_what_to_do(
  trained_run, arguments, message, capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  checkpoint = f'--checkpoint={trained_run("dsnet").workdir}'
  assert export.main([checkpoint, *arguments]) == 2
  assert message in ' '.join(capsys.readouterr().err.split())
  assert not list(tmp_path.iterdir())
