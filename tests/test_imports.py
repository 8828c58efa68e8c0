"""The core runs where TensorFlow and librosa cannot be imported."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
import importlib, pkgutil, sys

class Refuse:
  def find_spec(self, name, path=None, target=None):
    blocked = ('tensorflow', 'tensorflow_datasets', 'librosa', 'torch', 'keras')
    if name.partition('.')[0] in blocked:
      raise ImportError(f'{name} is not to be imported here')

sys.meta_path.insert(0, Refuse())
seen = []
for package in ('systems', 'ops', 'nn', 'models.convert', 'benchmark'):
  parent = importlib.import_module(f'jaxser.{package}')
  for module in pkgutil.iter_modules(parent.__path__):
    if module.name.startswith('torch_') and package == 'benchmark':
      continue  # Imported only for --compare=torch.
    importlib.import_module(f'jaxser.{package}.{module.name}')
    seen.append(module.name)
for name in ('evaluation.metrics', 'engine.step', 'engine.mesh'):
  importlib.import_module(f'jaxser.{name}')
assert {'timnet', 'dsnet', 'emosphere', 'spherical', 'keras_timnet'} <= set(seen)

import jax, numpy as np
from jaxser.systems.timnet import TimNet
batch = {
  'features': np.ones((2, 9, 128), np.float32),
  'length': np.full(2, 9, np.int32),
  'label': np.zeros(2, np.int32),
  'mask': np.ones(2, np.float32),
  'row': np.arange(2, dtype=np.int32),
}
system = TimNet(num_classes=3, num_blocks=1)
params, state = system.init(jax.random.key(0), batch)
assert system.predict(params, state, batch)['scores'].shape == (2, 3)
print('ran')
"""


def test_core_runs_without_tensorflow_and_librosa():
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == 'ran'


def test_preparation_does_not_know_the_engine():
  for path in (ROOT / 'data_prep').rglob('*.py'):
    text = path.read_text()
    assert 'import jaxser' not in text, path
    assert 'from jaxser' not in text, path
