"""What may import what, what runs without what, and what is installed."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
JAXSER = ROOT / 'jaxser'
# From the ground up. A module imports from its own layer and from lower ones.
LAYERS = (
  'data_prep',
  'jaxser.core',
  'jaxser.ops',
  'jaxser.nn',
  'jaxser.data',
  'jaxser.evaluation',
  'jaxser.systems',
  'jaxser.models',
  'jaxser.engine',
  'jaxser.report',
  'jaxser.engine.train',
  'jaxser',  # benchmark and the commands.
)
PROGRAMS = ('jaxser.models.hidden_states',)
WITHOUT_TENSORFLOW = """
import importlib, pkgutil, sys

class Refuse:
  def find_spec(self, name, path=None, target=None):
    blocked = ('tensorflow', 'tensorflow_datasets', 'librosa', 'torch', 'keras')
    if name.partition('.')[0] in blocked:
      raise ImportError(f'{name} is not to be imported here')

sys.meta_path.insert(0, Refuse())
# --help is quick.
names = ('data_prep.__main__', 'jaxser.main', 'jaxser.predict', 'jaxser.export')
names += ('jaxser.web', 'jaxser.tables', 'jaxser.report.__main__', 'jaxser.benchmark.__main__')
for name in (*names, 'jaxser.models.hidden_states'):
  importlib.import_module(name)
assert 'jax' not in sys.modules
for package in ('systems', 'ops', 'nn', 'models.convert'):
  parent = importlib.import_module(f'jaxser.{package}')
  for module in pkgutil.iter_modules(parent.__path__):
    importlib.import_module(f'jaxser.{package}.{module.name}')
for name in ('evaluation.metrics', 'engine.step', 'benchmark.measurements'):
  importlib.import_module(f'jaxser.{name}')

import jax, numpy as np
from jaxser.data import pipeline
from jaxser.systems.timnet import TimNet
from tests import fakes
batch = pipeline.Source(fakes.corpus()).batch(pipeline.Slot(np.arange(2), 12))
system = TimNet(num_classes=3, num_blocks=1)
params, state = system.init(jax.random.key(0), batch)
assert system.predict(params, state, batch)['scores'].shape == (2, 3)
"""


def modules():
  """{name: path} of every module of the package."""
  found = {}
  for folder in ('data_prep', 'jaxser'):
    for path in (ROOT / folder).rglob('*.py'):
      parts = path.relative_to(ROOT).with_suffix('').parts
      found['.'.join(p for p in parts if p != '__init__')] = path
  return found


def imports(path, known):
  """Modules of the package that a file imports, at the top or later."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text('utf-8'))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: relative import'
      for alias in node.names:
        name = f'{node.module}.{alias.name}'
        found.add(name if name in known else node.module)
  return found & set(known)


def layer(name):
  """Number of a module's layer: a program's is the highest, wherever it is."""
  if name == 'jaxser':
    return 0  # Its version; what it offers to users is imported on demand.
  if name.endswith('.__main__') or name in PROGRAMS:
    return len(LAYERS) - 1
  above = [prefix for prefix in LAYERS if f'{name}.'.startswith(f'{prefix}.')]
  return LAYERS.index(max(above, key=len))  # The most specific.


def test_imports_run_downwards_and_never_in_a_circle():
  known = modules()
  graph = {name: imports(path, known) - {name} for name, path in known.items()}
  upwards = [
    f'{name} imports {other}'
    for name, others in graph.items()
    for other in others
    if layer(other) > layer(name)
  ]
  assert not upwards, '\n'.join(sorted(upwards))
  graphlib.TopologicalSorter(graph).prepare()  # Its error shows the circle.


def test_only_the_collectives_know_the_name_of_an_axis():
  for path in JAXSER.rglob('*.py'):
    if path != JAXSER / 'ops' / 'collectives.py':
      for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        assert not isinstance(node, ast.arg) or node.arg != 'axis_name', path


@pytest.mark.slow
def test_core_runs_without_tensorflow_and_librosa():
  command = [sys.executable, '-c', WITHOUT_TENSORFLOW]
  subprocess.run(command, cwd=ROOT, check=True)
