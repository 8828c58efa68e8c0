"""The engine's programs, compiled for a TPU slice that is not there.

libtpu (the extra `tpu`) compiles for a named topology on any machine, over a mesh
of the topology's chips, with shapes in the place of arrays.
"""

import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from jaxser.benchmark import collectives, costs, programs
from jaxser.benchmark.timing import BenchmarkError
from jaxser.benchmark.workload import (
  EMODB_UTTERANCES,
  Workload,
  describe_shape,
)
from jaxser.core import runtime

GIB = 2**30


class Chip(NamedTuple):
  """A chip, from the pages of Google Cloud."""

  memory: int  # Bytes.
  flops: float  # bfloat16 operations per second.
  links: float  # Bytes per second between chips, one way.


# By the beginning of the kind that JAX names, longer ones first.
_CHIPS = {
  'TPU v6 lite': Chip(32 * GIB, 918e12, 448e9),
  'TPU v5 lite': Chip(16 * GIB, 197e12, 200e9),
  'TPU v5': Chip(95 * GIB, 459e12, 600e9),
  'TPU v4': Chip(32 * GIB, 275e12, 300e9),
}
_EXAMPLES = 'v5e:2x2, v5e:4x4, v5e:16x16, v6e:4x4, v5p:2x2x2'
_OUT_OF_MEMORY = re.compile(r'Used ([\d.]+)([KMGT]) of ')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def devices_of(name: str) -> list[Any]:
  """Returns the chips of a topology such as 'v5e:4x4'.

  Raises:
    BenchmarkError: if libtpu is missing, or does not know the topology.
  """
  for variable, value in runtime.QUIET_LIBTPU.items():
    os.environ.setdefault(variable, value)
  try:
    found = topologies.get_topology_desc(topology_name=name, platform='tpu')
  except RuntimeError as error:
    message = str(error).splitlines()[0]
    if isinstance(error, jax.errors.JaxRuntimeError):
      raise BenchmarkError(
        f'--topology={name}: libtpu refuses it ({message}); examples are '
        f'{_EXAMPLES}.'
      ) from error
    raise BenchmarkError(
      f'--topology={name} needs libtpu, which compiles for TPUs without one: '
      f"pip install 'jaxser[tpu]' ({message})."
    ) from error
  return list(found.devices)


def chip_of(device: Any) -> Chip | None:
  """Returns what is published of a chip; None if it is not known here."""
  kinds = filter(device.device_kind.startswith, _CHIPS)
  return _CHIPS.get(next(kinds, ''))


def compile_facts(
  function: Any, arguments: Sequence[Any], devices: Sequence[Any]
) -> dict[str, Any]:
  """Compiles for the devices, and describes what the program needs and sends.

  Returns:
    Per device: 'memory_bytes' by kind, whether that 'fits' into a chip, 'flop' of
    the matmuls, the compiler's 'bytes' and 'compiler_seconds' (of bodies of loops,
    once), 'estimated_seconds' (see below), 'collectives' by kind and each in
    'collective_list'. Of a program that does not fit only
    the first three are known.
  """
  lowered = function.lower(*arguments)
  chip = chip_of(devices[0])
  flop = costs.count_flops(function, *arguments) / len(devices)
  facts = {'flop': flop, 'chip_bytes': chip and chip.memory}
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    used = _OUT_OF_MEMORY.search(str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or not used:
      raise
    needed = int(float(used[1]) * _UNITS[used[2]])
    return {**facts, 'fits': False, 'memory_bytes': {'peak': needed}}
  memory, cost = costs.memory_of(compiled), compiled.cost_analysis() or {}
  found = collectives.find(compiled.as_text())
  estimate = compilers = cost.get('optimal_seconds')
  if chip and compilers is not None:
    # Matmuls at the chip's peak take longer than the compiler says of loops, whose
    # bodies it takes once. Bytes go twice around a large ring of links.
    links = 2 * sum(one['bytes_per_step'] for one in found) / chip.links
    estimate = max(compilers, flop / chip.flops) + links
  return {
    **facts,
    'fits': chip is None or memory['peak'] <= chip.memory,
    'memory_bytes': memory,
    'bytes': cost.get('bytes accessed'),
    'compiler_seconds': compilers,
    'estimated_seconds': estimate,
    'collectives': collectives.totals(found, 'kind'),
    'collective_list': found,
  }


def run(
  workload: Workload,
  names: Sequence[str],
  runs: int = 0,
  utterances: int = EMODB_UTTERANCES,
) -> dict[str, Any]:
  """Compiles the training step, of the workload's batch per chip.

  Where the loss has several phases all are compiled; a row is of the one that
  needs the most memory, and names it.

  Args:
    workload: whose step.
    names: of topologies.
    runs: per chip, of the program of a stack of runs; 0 compiles the step.
    utterances: of the corpus, for the program of a stack.

  Raises:
    BenchmarkError: see `devices_of`.
  """
  rows = []
  for name in names:
    devices, found = devices_of(name), {}
    stack = programs.Stack(
      workload,
      devices,
      size=workload.size * (1 if runs else len(devices)),
      runs=runs * len(devices) or 1,
      utterances=utterances if runs else 0,
    )
    for phase in workload.phases:
      found[str(phase)] = compile_facts(*stack.abstract(phase), devices)
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
  dtype = next(iter(programs.dtypes(workload.system)))
  about = f'one training step of {workload.describe("per chip")}'
  if runs:
    about = (
      f'the program of all folds and seeds, {runs} trainings per chip in batches '
      f'of {workload.size} utterances of {describe_shape(workload.shape)}'
    )
  return {
    'about': f'{workload.config.system}: {about}, {dtype}',
    'rows': rows,
  }
