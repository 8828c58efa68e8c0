"""Throughput and latency of one system on the devices at hand."""

import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import jax

from jaxser.benchmark import ceilings, comparison, programs, timing, workload
from jaxser.core import config as config_lib
from jaxser.systems import registry


def run(
  config: Any,
  *,
  batch_size: int = 0,
  classes: int = 7,
  rounds: int = 10,
  seconds: float = 1.0,
  compare: str = 'none',
  dtypes: Sequence[str] = (),
  with_ceilings: bool = True,
  with_latency: bool = True,
) -> dict[str, Any]:
  """Measures the system of a config; see the flags for the arguments.

  Raises:
    ConfigError: for a config that no system takes.
    BenchmarkError: for features of unknown shape, a type of products that the
      system lacks, or a comparison that is not possible.
  """
  config_lib.validate(config)
  shape = workload.feature_shape(config)
  size = batch_size or workload.usual_batch(config)
  corpus = workload.made_up_corpus(shape, classes)
  system = registry.create(config, corpus)
  dtypes = list(dtypes) or _usual_dtypes(system)
  typed = [programs.with_dtype(system, dtype) for dtype in dtypes]
  # First, so that what cannot be compared is said at once.
  others, notes = comparison.programs(
    compare, config, system, shape, size, dtypes
  )
  measured = ceilings.measure(seconds=seconds / 2) if with_ceilings else None
  ours, delays = [], {}
  for one in typed:
    setup = programs.Setup.create(config, one, corpus, shape, size)
    ours += [programs.training(setup), programs.prediction(setup)]
    if with_latency:
      single = programs.Setup.create(
        config, one, corpus, shape, 1, jax.local_devices()[:1]
      )
      found = programs.latency(single, seconds)
      delays |= {
        f'{work} {programs.dtype_of(one)}': value
        for work, value in found.items()
      }
  every = ours + others
  times = timing.measure(every, rounds, seconds)
  limits = measured and measured._asdict()
  return {
    'system': config.system,
    'batch_size': size,
    'feature_shape': list(shape),
    'accumulate': workload.micro_batches(config, size),
    'about': workload.described(
      size, shape, workload.micro_batches(config, size), 'per call'
    )
    + workload.in_phase(config, system),
    'rounds': rounds,
    'environment': environment(),
    'ceilings': limits,
    'programs': {
      program.name: timing.speed(
        program,
        times[program.name],
        measured and measured.flops_per_second,
        measured and measured.bytes_per_second,
      )
      for program in every
    },
    'ratios': timing.ratios(every, times),
    'latency': delays,
    'peak_device_bytes': peak_device_bytes(),
    'notes': notes,
  }


def _usual_dtypes(system: Any) -> list[str]:
  """The recipe's own type on CPUs, which emulate bfloat16; else all there are."""
  if jax.default_backend() == 'cpu' or programs.dtype_field(system) is None:
    return [programs.dtype_of(system)]
  return list(programs.DTYPES)


def peak_device_bytes() -> int | None:
  """Most memory that this process ever held on a device, None on CPUs."""
  stats = [device.memory_stats() for device in jax.local_devices()]
  peaks = [s['peak_bytes_in_use'] for s in stats if s]
  return max(peaks) if peaks else None


def environment() -> dict[str, Any]:
  """What the figures depend on."""
  device = jax.devices()[0]
  return {
    'device': device.device_kind,
    'platform': device.platform,
    'devices': jax.device_count(),
    'cpu': _cpu(),
    'cpu_cores': os.cpu_count(),
    # Above the number of cores, others were working too.
    'load_average': os.getloadavg()[0],
    'jax': jax.__version__,
    'python': platform.python_version(),
  }


def _cpu() -> str:
  """Name of the processor."""
  about = pathlib.Path('/proc/cpuinfo')
  if about.exists():
    for line in about.read_text('utf-8').splitlines():
      name, _, value = line.partition(':')
      if name.strip() == 'model name':
        return value.strip()
  return platform.processor() or platform.machine()
