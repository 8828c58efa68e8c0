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

QUIET_CORES = 0.1
"""In a quiet turn other processes keep no more of the cores busy than this."""
_REPEATS = 2  # Of a turn that was not quiet.
_COUNTER_ERROR = 0.02  # Seconds; the kernel counts in hundredths.


class BenchmarkError(UserError):
  """What was asked for cannot be measured; the message says why."""


@dataclasses.dataclass(frozen=True)
class Program:
  """One thing to be timed.

  Attributes:
    maker: 'jaxser', 'Keras', 'PyTorch eager', ...
    work: 'training' or 'prediction'; ratios are within one.
    utterances: of a call.
    run: makes so many calls, one after the other, and waits for the last.
    dtype: of the matmuls.
    costs: what is known before it runs, see `costs.compile_program`.
  """

  maker: str
  work: str
  utterances: int
  run: Callable[[int], None]
  dtype: str = 'float32'
  costs: dict[str, Any] = dataclasses.field(default_factory=dict)


def lazy(
  maker: str,
  work: str,
  utterances: int,
  run: Callable[[int], None],
  dtype: str = 'float32',
) -> Program:
  """Returns a program whose first call is its compilation."""
  costs = {'compile_seconds': elapsed(run, 1)}
  return Program(maker, work, utterances, run, dtype, costs)


class Settings(NamedTuple):
  """How to measure: turns of each, seconds of a turn, and the machine's peaks."""

  rounds: int = 10
  seconds: float = 1.0
  peaks: bool = True


class Counters(NamedTuple):
  """Seconds on the clock, of this process and of all processors (None: unknown).

  The last counts what other virtual machines took, too.
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
  """One turn of a program: seconds per call, and what ran beside it."""

  clock: float
  processor: float  # Of all cores, for this process.
  foreign: float | None = 0.0  # Cores that other processes kept busy.

  @property
  def quiet(self) -> bool:
    """Whether other processes left the machine to this one, as far as known."""
    return self.foreign is None or self.foreign <= QUIET_CORES


def turn_between(start: Counters, end: Counters, calls: int) -> Turn:
  """Returns the turn of so many calls between two readings."""
  clock, own, foreign = end.clock - start.clock, end.own - start.own, None
  # In shorter turns the error of the counters would hide what matters.
  if end.machine is not None and clock * QUIET_CORES >= _COUNTER_ERROR:
    others = end.machine - start.machine - own - _COUNTER_ERROR
    foreign = max(0.0, others / clock)
  return Turn(clock / calls, own / calls, foreign)


def measure(
  programs: Sequence[Program], settings: Settings
) -> list[list[Turn]]:
  """Times every program, one turn per round; returns the turns of each.

  A turn that was not quiet is repeated at once, at most twice; the last counts.
  """
  calls, turns = [], [[] for _ in programs]
  for program in programs:
    program.run(1)
    once = elapsed(program.run, 1)
    calls.append(max(1, math.ceil(settings.seconds / once)))
  for _ in range(settings.rounds):
    for program, count, its in zip(programs, calls, turns, strict=True):
      for _ in range(1 + _REPEATS):
        start = read_counters()
        program.run(count)
        turn = turn_between(start, read_counters(), count)
        if turn.quiet:
          break
      its.append(turn)
  return turns


def row(
  program: Program, turns: Sequence[Turn], peaks: dict[str, Any] | None = None
) -> dict[str, Any]:
  """Returns the figures of a program by column of a table, see `tables.Table`.

  They are medians of the quiet turns; of all where none was quiet. 'quiet' is
  whether at least half of them were. `peaks` are of `machine.measure_peaks`.
  """
  quiet = [turn for turn in turns if turn.quiet]
  clock, processor = np.median(
    [(turn.clock, turn.processor) for turn in quiet or turns], axis=0
  ).tolist()
  costs, peaks = program.costs, peaks or {'flops': {}, 'bytes': 0}

  def per(name, unit):
    """Of what is known before it runs, per second."""
    known = costs.get(name) and unit
    return costs[name] / clock / unit if known else None

  peak, memory = peaks['flops'].get(program.dtype), costs.get('memory_bytes')
  return {
    'utterances/s': program.utterances / clock,
    'ms per call': 1e3 * clock,
    'core-ms': 1e3 * processor,
    'core-ms per utterance': 1e3 * processor / program.utterances,
    'GFLOP/s': per('flop', 1e9),
    '% of the measured peak': per('flop', peak and peak / 100),
    'GB/s': per('bytes', 1e9),
    '% of the measured bandwidth': per('bytes', peaks['bytes'] / 100),
    'compiling, s': costs.get('compile_seconds'),
    'memory, MiB': memory and memory['peak'] / 2**20,
    'costs': costs,
    'turns': {
      'quiet': 2 * len(quiet) >= len(turns),
      'loud': len(turns) - len(quiet),
      'every': [turn._asdict() for turn in turns],
    },
  }


def ratio(ours: Sequence[Turn], others: Sequence[Turn], calls: int = 1) -> str:
  """Says how many times as fast a call of ours is as `calls` of another.

  The median of the rounds in which both turns were quiet; if they are fewer than
  half, the figure would depend on the work of others, and is not known.
  """
  times = [
    calls * b.clock / a.clock
    for a, b in zip(ours, others, strict=True)
    if a.quiet and b.quiet
  ]
  if 2 * len(times) < len(ours):
    return f'not known, {len(times)} quiet rounds'
  return f'{statistics.median(times):.2f} times as fast'


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
  """Summarises single calls in ms; the first one includes the compiler."""
  first = elapsed(call)
  times = 1e3 * np.array(repeat(call, seconds, 5))
  median, p90 = np.quantile(times, (0.5, 0.9)).tolist()
  return {'first': 1e3 * first, 'median': median, 'p90': p90}
