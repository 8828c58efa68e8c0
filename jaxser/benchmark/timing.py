"""Programs that take turns, and what is said of their times."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxser.core.errors import UserError

OURS = 'jaxser'


class BenchmarkError(UserError):
  """What was asked for cannot be measured; the message says why."""


@dataclasses.dataclass(frozen=True)
class Program:
  """One thing to be timed.

  Attributes:
    maker: whose program: 'jaxser', 'Keras', 'PyTorch', ...
    work: 'training' or 'prediction'; ratios are within one work and dtype.
    dtype: of the products: 'float32' or 'bfloat16'.
    utterances: per call.
    compile_seconds: time of the first call or of the compiler.
    run: runs so many calls, one after the other, and waits for the last.
    flops: operations of the products of one call, None where unknown.
    bytes_accessed: memory traffic of one call by the compiler's count, or None.
    memory: bytes by kind, see `programs.memory_of`; empty where unknown.
    variant: what else names it, such as '8 devices'.
  """

  maker: str
  work: str
  utterances: int
  compile_seconds: float
  run: Callable[[int], None]
  dtype: str = 'float32'
  flops: float | None = None
  bytes_accessed: float | None = None
  memory: dict[str, int] = dataclasses.field(default_factory=dict)
  variant: str = ''

  @property
  def name(self) -> str:
    """Such as 'jaxser training bfloat16'."""
    return ' '.join(
      filter(None, (self.maker, self.work, self.dtype, self.variant))
    )


class Turn(NamedTuple):
  """One turn of a program: seconds per call, by the clock and of all cores."""

  clock: float
  processor: float


def measure(
  programs: Sequence[Program], rounds: int, seconds: float
) -> dict[str, list[Turn]]:
  """Times of every program, one per round.

  In every round each program runs once, for about `seconds`.
  """
  calls = {}
  for program in programs:
    program.run(1)
    start = time.perf_counter()
    program.run(1)
    once = time.perf_counter() - start
    calls[program.name] = max(1, math.ceil(seconds / once))
  times: dict[str, list[Turn]] = {program.name: [] for program in programs}
  for _ in range(rounds):
    for program in programs:
      count = calls[program.name]
      start = time.perf_counter(), time.process_time()
      program.run(count)
      end = time.perf_counter(), time.process_time()
      times[program.name].append(
        Turn((end[0] - start[0]) / count, (end[1] - start[1]) / count)
      )
  return times


def speed(
  program: Program,
  turns: Sequence[Turn],
  flops_ceilings: dict[str, float] | None = None,
  bytes_ceiling: float | None = None,
) -> dict[str, Any]:
  """What the turns of a program say; shares of ceilings where both are known.

  Args:
    program: that was timed.
    turns: from `measure`.
    flops_ceilings: operations per second by dtype.
    bytes_ceiling: bytes per second.
  """
  clock, processor = zip(*turns, strict=True)
  middle = statistics.median(clock)

  def rate(amount):
    return None if amount is None else amount / middle

  def share(amount, ceiling):
    return rate(amount) / ceiling if amount and ceiling else None

  return {
    'maker': program.maker,
    'work': program.work,
    'dtype': program.dtype,
    'utterances_per_second': program.utterances / middle,
    'best_utterances_per_second': program.utterances / min(clock),
    'milliseconds_per_call': 1e3 * middle,
    'processor_milliseconds_per_call': 1e3 * statistics.median(processor),
    'processor_milliseconds_per_utterance': 1e3
    * statistics.median(processor)
    / program.utterances,
    'compile_seconds': program.compile_seconds,
    'flop_per_call': program.flops,
    'flop_per_second': rate(program.flops),
    'share_of_matrix_peak': share(
      program.flops, (flops_ceilings or {}).get(program.dtype)
    ),
    'bytes_per_call': program.bytes_accessed,
    'bytes_per_second': rate(program.bytes_accessed),
    'share_of_bandwidth': share(program.bytes_accessed, bytes_ceiling),
    'memory_bytes': program.memory,
    'seconds_per_call': list(clock),
    'processor_seconds_per_call': list(processor),
  }


def ratios(
  programs: Sequence[Program], times: dict[str, list[Turn]]
) -> list[dict[str, Any]]:
  """How many times as fast ours is as each other maker's, turn by turn."""
  found = []
  for other in programs:
    for ours in programs:
      same = (ours.work, ours.dtype) == (other.work, other.dtype)
      if ours.maker != OURS or other.maker == OURS or not same:
        continue
      found.append(
        {
          'maker': other.maker,
          'work': other.work,
          'dtype': other.dtype,
          **ratio(times[ours.name], times[other.name]),
        }
      )
  return found


def ratio(
  ours: Sequence[Turn], others: Sequence[Turn], calls: int = 1
) -> dict[str, float]:
  """How many times as fast a call of ours is as so many calls of another.

  Returns:
    'median' of the rounds, 'best' against best, and 'processor': the median of
    the processor times.
  """
  pairs = list(zip(ours, others, strict=True))
  return {
    'median': calls * statistics.median(b.clock / a.clock for a, b in pairs),
    'best': calls
    * min(b.clock for _, b in pairs)
    / min(a.clock for a, _ in pairs),
    'processor': calls
    * statistics.median(b.processor / a.processor for a, b in pairs),
  }


def latency(call: Callable[[], Any], seconds: float) -> dict[str, float]:
  """Milliseconds of single calls, each waited for; `call` returns when done.

  Runs for about `seconds`, at least five times after one that does not count.
  """
  call()
  times = []
  end = time.perf_counter() + seconds
  while len(times) < 5 or time.perf_counter() < end:
    start = time.perf_counter()
    call()
    times.append(1e3 * (time.perf_counter() - start))
  return {
    'calls': len(times),
    'median_milliseconds': float(np.median(times)),
    'p90_milliseconds': float(np.quantile(times, 0.9)),
    'best_milliseconds': float(np.min(times)),
  }
