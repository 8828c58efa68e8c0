"""The training step, compiled for a TPU slice that is not there.

libtpu (the extra `tpu`) compiles for a named topology on any machine. The step
is the one that the engine runs, over a mesh of the topology's chips, with
shapes in the place of arrays. So what it needs and what it sends is known
before anyone pays for a slice.
"""

import contextlib
import os
import re
import time
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from jaxser.benchmark import collectives, flops, folds, programs, workload
from jaxser.benchmark.timing import BenchmarkError
from jaxser.core import config as config_lib
from jaxser.core import runtime
from jaxser.data.corpus import Corpus
from jaxser.engine import mesh, step
from jaxser.systems import registry
from jaxser.systems.base import System

GIB = 2**30


class Chip(NamedTuple):
  """A chip, from the pages of Google Cloud.

  Attributes:
    memory: bytes.
    flops: bfloat16 operations per second.
    links: bytes per second between chips, one way.
  """

  memory: int
  flops: float
  links: float


# By the beginning of the kind that JAX names, the longest that fits.
_CHIPS = {
  'TPU v4': Chip(32 * GIB, 275e12, 300e9),
  'TPU v5 lite': Chip(16 * GIB, 197e12, 200e9),
  'TPU v5': Chip(95 * GIB, 459e12, 600e9),
  'TPU v6 lite': Chip(32 * GIB, 918e12, 448e9),
}
_EXAMPLES = 'v5e:2x2, v5e:4x4, v5e:16x16, v6e:4x4, v5p:2x2x2'
_OUT_OF_MEMORY = re.compile(r'Used ([\d.]+)([KMGT]) of ')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
# libtpu then compiles several times faster; partitioning, and so collectives
# and arguments, stay the same.
QUICK = -1.0


def devices_of(name: str) -> list[Any]:
  """Chips of a topology such as 'v5e:4x4'.

  Raises:
    BenchmarkError: if libtpu is missing, or does not know the topology.
  """
  for variable, value in runtime.QUIET_LIBTPU.items():
    os.environ.setdefault(variable, value)
  try:
    found = topologies.get_topology_desc(topology_name=name, platform='tpu')
  except jax.errors.JaxRuntimeError as error:
    message = str(error).splitlines()[0]
    raise BenchmarkError(
      f'--topology={name}: libtpu refuses it ({message}); examples are '
      f'{_EXAMPLES}.'
    ) from error
  except RuntimeError as error:
    raise BenchmarkError(
      f'--topology={name} needs libtpu, which compiles for TPUs without one: '
      f"pip install 'jaxser[tpu]' ({str(error).splitlines()[0]})."
    ) from error
  return list(found.devices)


def chip_of(device: Any) -> Chip | None:
  """What is published of a chip, None where it is not known here."""
  kinds = sorted(_CHIPS, key=len, reverse=True)
  kind = next((k for k in kinds if device.device_kind.startswith(k)), None)
  return kind and _CHIPS[kind]


def estimated_seconds(
  chip: Chip | None,
  flop: float,
  compilers: float | None,
  sent: dict[str, dict[str, int]],
) -> float | None:
  """Time of a call, products and links one after the other; None if unknown.

  The larger of the compiler's estimate, which takes bodies of loops once, and
  of the products at the chip's peak; and each collective's bytes twice over the
  links, as in an all-reduce around a large ring.
  """
  if chip is None or compilers is None:
    return compilers
  bytes_sent = sum(kind['bytes'] for kind in sent.values())
  return max(compilers, flop / chip.flops) + 2 * bytes_sent / chip.links


def step_program(
  config: Any,
  system: System,
  corpus: Corpus,
  shape: Sequence[int],
  devices: Sequence[Any],
  per_device: int,
  phase: Hashable,
) -> tuple[Any, tuple[Any, ...]]:
  """The jitted training step over these devices, and its abstract arguments."""
  placement = mesh.Placement('jit', devices)
  optimizer = step.make_optimizer(config.optimizer)
  size = per_device * len(devices)
  example = workload.made_up_batch(system, corpus, shape, 1, 1)
  state = jax.eval_shape(
    lambda rng, batch: step.create_state(system, optimizer, rng, batch),
    jax.random.key(0),
    example,
  )
  state = state.replace(
    model_state=system.prepare(
      state.model_state, corpus.table.vad, corpus.table.labels
    )
  )
  function = placement.compile_train(
    system,
    optimizer,
    accumulate=workload.micro_batches(config, per_device),
    phase=phase,
  )
  return function, placement.abstract(state, example, size)


@contextlib.contextmanager
def _compiler_effort(effort: float) -> Iterator[None]:
  name = 'jax_exec_time_optimization_effort'
  before = jax.config.jax_exec_time_optimization_effort
  jax.config.update(name, effort)
  try:
    yield
  finally:
    jax.config.update(name, before)


def compile_facts(
  function: Any, arguments: Sequence[Any], devices: Sequence[Any], effort: float
) -> dict[str, Any]:
  """Compiles for the devices, and says what the program needs and sends.

  Args:
    function: jitted.
    arguments: abstract, with shardings over the devices.
    devices: of the topology.
    effort: of the compiler for speed, -1 (quick) .. 1; 0 is what a run uses.

  Returns:
    'memory_bytes' on each device by kind, 'fits' into a chip, 'flop' of the
    products, the compiler's 'bytes' and 'compiler_seconds' (of bodies of loops,
    once), 'estimated_seconds', 'collectives' by kind and in 'collective_list'
    each, and 'compile_seconds'. Of a program that does not fit only the first
    three are known.
  """
  lowered = function.lower(*arguments)
  chip = chip_of(devices[0])
  facts = {
    'flop': flops.count(function, *arguments) / len(devices),
    'chip_bytes': chip and chip.memory,
  }
  start = time.perf_counter()
  try:
    with _compiler_effort(effort):
      compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    used = _OUT_OF_MEMORY.search(str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or not used:
      raise
    needed = int(float(used[1]) * _UNITS[used[2]])
    return {**facts, 'fits': False, 'memory_bytes': {'peak': needed}}
  seconds = time.perf_counter() - start
  memory, cost = programs.memory_of(compiled), compiled.cost_analysis() or {}
  found = collectives.find(compiled.as_text())
  sent = collectives.summary(found)
  compilers = cost.get('optimal_seconds')
  return {
    **facts,
    'fits': chip is None or memory['peak'] <= chip.memory,
    'memory_bytes': memory,
    'bytes': cost.get('bytes accessed'),
    'compiler_seconds': compilers,
    'estimated_seconds': estimated_seconds(
      chip, facts['flop'], compilers, sent
    ),
    'collectives': sent,
    'collective_list': collectives.listed(found),
    'compile_seconds': seconds,
  }


def run(
  config: Any,
  names: Sequence[str],
  *,
  per_device: int = 0,
  classes: int = 7,
  trainings: int = 0,
  utterances: int = workload.EMODB_UTTERANCES,
  effort: float = QUICK,
) -> dict[str, Any]:
  """Compiles the step of a config for each topology.

  Where the loss has several phases all are compiled; a row is of the one that
  needs the most memory, and names it.

  Args:
    config: a recipe.
    names: topologies.
    per_device: utterances of a step on each chip, or of each training; 0 is the
      recipe's batch.
    classes: of the made-up corpus.
    trainings: per chip, of the program of all folds; 0 compiles the step.
    utterances: of the corpus, for the program of all folds; EmoDB has 535.
    effort: see `compile_facts`.

  Raises:
    BenchmarkError: see `devices_of`.
    ConfigError: for a config that no system takes.
  """
  config_lib.validate(config)
  shape = workload.feature_shape(config)
  corpus = workload.made_up_corpus(shape, classes)
  system = registry.create(config, corpus)
  per_device = per_device or workload.usual_batch(config)
  phases = workload.phases(config, system)
  rows = []
  for name in names:
    devices = devices_of(name)
    shared = config, system, corpus, shape, devices
    found = {}
    for phase in phases:
      if trainings:
        made = folds.program_of(
          *shared, trainings * len(devices), utterances, per_device, phase
        )
      else:
        made = step_program(*shared, per_device, phase)
      found[str(phase)] = compile_facts(*made, devices, effort)
    peaks = {
      phase: facts['memory_bytes']['peak'] for phase, facts in found.items()
    }
    largest = max(peaks, key=peaks.get)
    rows.append(
      {
        'topology': name,
        'chips': len(devices),
        'hosts': len({device.process_index for device in devices}),
        'phase': largest,
        'phase_peak_bytes': peaks,
        **found[largest],
      }
    )
  return {
    'system': config.system,
    'program': 'folds' if trainings else 'step',
    'trainings_per_chip': trainings,
    'batch_per_chip': per_device,
    'accumulate': workload.micro_batches(config, per_device),
    'dtype': programs.dtype_of(system),
    'feature_shape': list(shape),
    'effort': effort,
    'rows': rows,
  }
