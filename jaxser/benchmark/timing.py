"""Programs that take turns, their times, and the work of others beside them."""

import dataclasses
import math
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxser.core.errors import UserError

OURS = 'jaxser'
QUIET_CORES = 0.1
"""In a quiet turn other processes keep no more of the cores busy than this."""
_REPEATS = 2  # Of a turn that was not quiet.
_COUNTER_ERROR = 0.02  # Seconds; the kernel counts in hundredths.


class BenchmarkError(UserError):
  """What was asked for cannot be measured; the message says why."""


@dataclasses.dataclass(frozen=True)
class Program:
  """One thing to be timed; figures are of one call, None where unknown.

  `run` makes so many calls, one after the other, and waits for the last.
  """

  implementation: str  # 'jaxser', 'Keras', 'PyTorch eager', ...
  work: str  # 'training' or 'prediction'; ratios are within one.
  utterances: int
  compile_seconds: float  # Of the compiler, or of the first call.
  run: Callable[[int], None]
  dtype: str = 'float32'  # Of the matmuls.
  flops: float | None = None
  bytes_accessed: float | None = None
  memory: dict[str, int] = dataclasses.field(default_factory=dict)
  variant: str = ''

  @property
  def name(self) -> str:
    """Such as 'jaxser training bfloat16'."""
    parts = self.implementation, self.work, self.dtype, self.variant
    return ' '.join(filter(None, parts))


class Settings(NamedTuple):
  """How to measure: turns of each, seconds of a turn, and the machine's peaks."""

  rounds: int = 10
  seconds: float = 1.0
  peaks: bool = True


class Counters(NamedTuple):
  """Seconds so far: on the clock, of this process' and of all processors.

  `machine` counts what other virtual machines took, too; it is None where the
  kernel does not tell.
  """

  clock: float
  own: float
  machine: float | None


def read_counters() -> Counters:
  """Reads the clock, this process' times and /proc/stat."""
  stat, machine = pathlib.Path('/proc/stat'), None
  if stat.exists():
    # user, nice, system, idle, iowait, irq, softirq, steal
    ticks = [int(word) for word in stat.read_text('ascii').split()[1:9]]
    machine = (sum(ticks) - sum(ticks[3:5])) / os.sysconf('SC_CLK_TCK')
  return Counters(time.perf_counter(), time.process_time(), machine)


class Turn(NamedTuple):
  """One turn of a program, in seconds per call."""

  clock: float
  processor: float  # Of all cores, for this process.
  foreign: float | None = 0.0  # Cores that other processes kept busy.

  @property
  def quiet(self) -> bool:
    """Whether other processes left the machine to this one, as far as known."""
    return self.foreign is None or self.foreign <= QUIET_CORES


def turn_between(start: Counters, end: Counters, calls: int) -> Turn:
  """Returns the turn of so many calls between two readings."""
  clock, own = end.clock - start.clock, end.own - start.own
  foreign = None
  # In shorter turns the error of the counters would hide what matters.
  if end.machine is not None and clock * QUIET_CORES >= _COUNTER_ERROR:
    others = end.machine - start.machine - own - _COUNTER_ERROR
    foreign = max(0.0, others / clock)
  return Turn(clock / calls, own / calls, foreign)


def measure(
  programs: Sequence[Program], settings: Settings
) -> dict[str, list[Turn]]:
  """Times every program, one turn per round.

  A turn that was not quiet is repeated at once, at most twice; the last counts.

  Returns:
    The turns by `Program.name`.
  """
  calls = {}
  for program in programs:
    program.run(1)
    once = elapsed(program.run, 1)
    calls[program.name] = max(1, math.ceil(settings.seconds / once))
  turns: dict[str, list[Turn]] = {program.name: [] for program in programs}
  for _ in range(settings.rounds):
    for program in programs:
      count = calls[program.name]
      for _ in range(1 + _REPEATS):
        start = read_counters()
        program.run(count)
        turn = turn_between(start, read_counters(), count)
        if turn.quiet:
          break
      turns[program.name].append(turn)
  return turns


def speed(
  program: Program, turns: Sequence[Turn], peaks: dict[str, Any] | None = None
) -> dict[str, Any]:
  """Summarises the turns of a program for JSON, beside `machine.measure_peaks`.

  Figures are medians of the quiet turns; of all where none was quiet. 'quiet' is
  whether at least half of them were.
  """
  quiet = [turn for turn in turns if turn.quiet]
  clock, processor, _ = zip(*(quiet or turns), strict=True)
  median, core = statistics.median(clock), statistics.median(processor)
  peaks = peaks or {'flops_per_second': {}, 'bytes_per_second': None}

  def per(amount, divisor):
    return amount / divisor if amount and divisor else None

  flops = per(program.flops, median)
  traffic = per(program.bytes_accessed, median)
  return {
    'maker': program.implementation,
    'work': program.work,
    'dtype': program.dtype,
    'utterances_per_second': program.utterances / median,
    'milliseconds_per_call': 1e3 * median,
    'processor_milliseconds_per_call': 1e3 * core,
    'processor_milliseconds_per_utterance': 1e3 * core / program.utterances,
    'compile_seconds': program.compile_seconds,
    'flop_per_call': program.flops,
    'flop_per_second': flops,
    'share_of_matrix_peak': per(
      flops, peaks['flops_per_second'].get(program.dtype)
    ),
    'bytes_per_second': traffic,
    'share_of_bandwidth': per(traffic, peaks['bytes_per_second']),
    'memory_bytes': program.memory,
    'seconds_per_call': [turn.clock for turn in turns],
    'processor_seconds_per_call': [turn.processor for turn in turns],
    'foreign_cores': [turn.foreign for turn in turns],
    'quiet_turns': len(quiet),
    'quiet': 2 * len(quiet) >= len(turns),
  }


def ratio(
  ours: Sequence[Turn], others: Sequence[Turn], calls: int = 1
) -> dict[str, float | None]:
  """Computes how many times as fast a call of ours is as `calls` of another.

  Only rounds in which both turns were quiet count.

  Returns:
    'median' of the rounds, None if they are fewer than half, as the figure would
    depend on the work of others; and 'quiet_rounds', how many count.
  """
  times = [
    b.clock / a.clock
    for a, b in zip(ours, others, strict=True)
    if a.quiet and b.quiet
  ]
  enough = 2 * len(times) >= len(ours)
  return {
    'median': calls * statistics.median(times) if enough else None,
    'quiet_rounds': len(times),
  }


def elapsed(function: Callable[..., Any], *arguments: Any) -> float:
  """Returns the seconds that a call takes."""
  start = time.perf_counter()
  function(*arguments)
  return time.perf_counter() - start


def repeat(call: Callable[[], Any], seconds: float, least: int) -> list[float]:
  """Times single calls for about `seconds`, at least so many after a first."""
  call()
  times = []
  end = time.perf_counter() + seconds
  while len(times) < least or time.perf_counter() < end:
    times.append(elapsed(call))
  return times


def latency(call: Callable[[], Any], seconds: float) -> dict[str, float]:
  """Summarises single calls in milliseconds; `call` returns when it is done."""
  times = 1e3 * np.array(repeat(call, seconds, 5))
  return {
    'calls': len(times),
    'median_milliseconds': float(np.median(times)),
    'p90_milliseconds': float(np.quantile(times, 0.9)),
  }
