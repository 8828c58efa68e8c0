"""What a program needs, known before it runs: operations, traffic, memory."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def compile_program(
  function: Any, devices: int, *args: Any
) -> tuple[Callable, dict[str, Any]]:
  """Compiles ahead of time.

  Returns:
    The program, and its 'compile_seconds', 'flops' and 'bytes_accessed' of all
    devices together, and 'memory' of each.
  """
  start = time.perf_counter()
  program = function.lower(*args).compile()
  seconds = time.perf_counter() - start
  # The compiler's figures are of one device.
  traffic = (program.cost_analysis() or {}).get('bytes accessed')
  return program, {
    'compile_seconds': seconds,
    'flops': count_flops(function, *args),
    'bytes_accessed': traffic and devices * traffic,
    'memory': memory_of(program),
  }


def memory_of(program: Any) -> dict[str, int]:
  """Returns the bytes on each device that a compiled program needs.

  By kind: 'arguments', 'outputs', 'temporary', and 'peak', all of them at once
  but outputs that take the place of arguments; empty where unknown.
  """
  memory = program.memory_analysis()
  if memory is None:
    return {}
  found = {
    'arguments': memory.argument_size_in_bytes,
    'outputs': memory.output_size_in_bytes,
    'temporary': memory.temp_size_in_bytes,
  }
  return {**found, 'peak': sum(found.values()) - memory.alias_size_in_bytes}


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
    for value in params.values()
    for item in (value if isinstance(value, tuple | list) else (value,))
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
