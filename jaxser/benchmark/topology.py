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
from jaxser.benchmark.tables import Table
from jaxser.benchmark.timing import BenchmarkError
from jaxser.core import runtime
from jaxser.engine.experiment import Experiment

GIB = 2**30


class Chip(NamedTuple):
  """A chip, from the pages of Google Cloud."""

  memory: int  # Bytes.
  flops: float  # bfloat16 operations per second.
  bandwidth: float  # Bytes of memory per second.
  links: float  # Bytes per second between chips, one way.


# By the beginning of the kind that JAX names, longer ones first.
_CHIPS = {
  'TPU v6 lite': Chip(32 * GIB, 918e12, 1.64e12, 448e9),
  'TPU v5 lite': Chip(16 * GIB, 197e12, 0.819e12, 200e9),
  'TPU v5': Chip(95 * GIB, 459e12, 2.765e12, 600e9),
  'TPU v4': Chip(32 * GIB, 275e12, 1.228e12, 300e9),
}
_EXAMPLES = 'v5e:2x2, v5e:4x4, v5e:16x16, v6e:4x4, v5p:2x2x2'
_OUT_OF_MEMORY = re.compile(
  r'RESOURCE_EXHAUSTED.*Used ([\d.]+)([KMGT]) of ', re.S
)
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def devices_of(name: str) -> list[Any]:
  """Returns the chips of a topology such as 'v5e:4x4'."""
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
      f"pip install -e '.[tpu]' ({message})."
    ) from error
  return list(found.devices)


def chip_of(device: Any) -> Chip | None:
  """Returns what is published of a chip; None if it is not known here."""
  kinds = filter(device.device_kind.startswith, _CHIPS)
  return _CHIPS.get(next(kinds, ''))


def describe(
  function: Any, arguments: Sequence[Any], devices: Sequence[Any]
) -> dict[str, Any]:
  """Compiles for the devices; returns what the program needs and sends.

  Per device, by column of a table. 'GB accessed' and 'compiler s' are the
  compiler's, of bodies of loops once. 'sent' has every collective. Of a program
  that does not fit only memory and operations are known.
  """
  chip = chip_of(devices[0])
  try:
    compiled, found = costs.compile_program(function, arguments)
  except jax.errors.JaxRuntimeError as error:
    used = _OUT_OF_MEMORY.search(str(error))
    if not used:
      raise
    needed = float(used[1]) * _UNITS[used[2]] / GIB
    flop = costs.count_flops(function, *arguments) / len(devices)
    return {'memory GiB': needed, 'fits': False, 'TFLOP': flop / 1e12}
  memory, flop = found['memory_bytes'], found['flop'] / len(devices)
  sent = collectives.find(compiled.as_text())
  # Some libtpu (0.0.52) give a time below 0, which is none.
  seconds = max((compiled.cost_analysis() or {}).get('optimal_seconds', 0), 0)
  estimate = None
  if chip:
    # Matmuls at the chip's peak take longer than the compiler says of loops, whose
    # bodies it takes once. Bytes go twice around a large ring of links.
    links = 2 * sum(one['bytes_per_step'] for one in sent) / chip.links
    traffic = found['bytes'] / chip.bandwidth
    estimate = max(seconds, traffic, flop / chip.flops) + links
  totals = collectives.totals(sent, 'kind').items()
  return {
    'memory GiB': memory['peak'] / GIB,
    'of it temporary': memory['temporary'] / GIB,
    'fits': not chip or memory['peak'] <= chip.memory,
    'TFLOP': flop / 1e12,
    'GB accessed': found['bytes'] / 1e9,
    'compiler s': seconds or None,
    'estimate s': estimate,
    'collectives': ', '.join(
      f'{group["runs"]} {kind} of {group["MiB per step"]:.2f} MiB'
      for (kind,), group in totals
    )
    or 'none',
    'sent': sent,
    'costs': found,
  }


def run(
  experiment: Experiment, names: Sequence[str], runs: int = 0
) -> tuple[dict[str, Any], list[Table]]:
  """Compiles the training step, of the experiment's batch per chip.

  Where the loss has several phases all are compiled; a row is of the one that
  needs the most memory, and a note names it.
  """
  size, rows, notes, places = experiment.config.batch_size, [], [], {}
  for name in names:
    devices = devices_of(name)
    count = len(devices)
    parallel = experiment.config.parallel
    if runs or parallel == 'pmap':
      parallel = 'jit'
    spread = programs.changed(
      experiment, batch_size=size * (1 if runs else count), parallel=parallel
    )
    case = programs.Case(spread, devices, runs * count or 1, bool(runs))
    phases = {
      str(phase): describe(*case.abstract(phase), devices)
      for phase in programs.phases(experiment)
    }
    peaks = {phase: found['memory GiB'] for phase, found in phases.items()}
    largest = max(peaks, key=peaks.get)
    place = {
      'topology': name,
      'chips': count,
      'hosts': len({device.process_index for device in devices}),
    }
    rows.append({**place, **phases[largest], 'phases': phases})
    if len(phases) > 1:
      each = ', '.join(f'{phase} {gib:.2f} GiB' for phase, gib in peaks.items())
      notes.append(
        f'{name} is of phase {largest}, which needs the most memory: {each}.'
      )
    groups = collectives.totals(
      phases[largest].get('sent', ()), 'origin', 'kind', 'times'
    )
    if groups:
      # Topologies that send the same share a table.
      key = tuple((key, *group.values()) for key, group in groups.items())
      places.setdefault(key, (groups, []))[1].append(name)
  tables = [
    Table(
      f'Collectives of {", ".join(same)}',
      [
        {
          'from': origin,
          'kind': kind,
          'instructions': group['instructions'],
          'runs of each': times,
          'arrays': group['arrays'],
          'MiB per step': group['MiB per step'],
        }
        for (origin, kind, times), group in groups.items()
      ],
    )
    for groups, same in places.values()
  ]
  about = f'one training step of {programs.describe(experiment, "per chip")}'
  if runs:
    about = (
      f'the program of all folds and seeds, {runs} trainings per chip in batches '
      f'of {size} utterances of {programs.describe_shape(experiment)}'
    )
  dtype = next(iter(programs.dtypes(experiment.system)))
  divided = ', fsdp' * (experiment.config.parallel == 'fsdp')
  about = f'{experiment.config.system}: {about}, {dtype}{divided}'
  return {'about': about, 'rows': rows}, [Table(about, rows, notes), *tables]
