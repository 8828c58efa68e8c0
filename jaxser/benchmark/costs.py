"""What a program needs, known before it runs: operations, traffic, memory."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from jaxser.engine import memory


def compile_program(
  function: Any, arguments: Sequence[Any]
) -> tuple[jax.stages.Compiled, dict[str, Any]]:
  """Compiles ahead of time."""
  start = time.perf_counter()
  program = function.lower(*arguments).compile()
  seconds, needed = time.perf_counter() - start, program.memory_analysis()
  return program, {
    'compile_seconds': seconds,
    'flop': count_flops(function, *arguments),
    'bytes': (program.cost_analysis() or {}).get('bytes accessed', 0),
    'memory_bytes': needed
    and {
      'arguments': needed.argument_size_in_bytes,
      'outputs': needed.output_size_in_bytes,
      'temporary': needed.temp_size_in_bytes,
      'peak': memory.need(program),
    },
  }


def count_flops(function: Callable[..., Any], *args: Any) -> int:
  """Counts the operations of one call on arrays or their shapes.

  A compiler's own count takes the body of a loop once, and leaves out what it
  hands to a library. Here every matmul and convolution of the traced program
  counts two operations per multiply and add, times the iterations of the scans
  around it; of the branches of a condition the most expensive counts. What is
  computed twice (rematerialisation) counts twice; elementwise work does not.
  """
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
  return sum(map(_count_equation, jaxpr.eqns))


def _count_equation(equation: core.JaxprEqn) -> int:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    left = equation.invars[0].aval.shape
    inner = math.prod(left[axis] for axis in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * inner
  if name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    # Every output meets all of the kernel but the axis of its filters.
    inner = math.prod(kernel) // kernel[params['dimension_numbers'].rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * inner
  # Loops, branches and calls hold programs of their own.
  inside = [
    _count(getattr(item, 'jaxpr', item))
    for item in jax.tree.leaves(params)
    if isinstance(item, core.ClosedJaxpr | core.Jaxpr)
  ]
  if name == 'cond':
    return max(inside)
  times = 1
  if name == 'scan':
    times = params['length']
  elif name == 'shard_map':
    times = math.prod(params['mesh'].shape.values())
  return times * sum(inside)
