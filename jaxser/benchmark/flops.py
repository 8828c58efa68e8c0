"""Floating point operations of a program, counted before it is compiled.

Compilers' own counts take the body of a loop once, and none of what they hand
to a library. Here every matrix product and convolution of the traced program
counts two operations per multiply and add, times the iterations of the scans
around it; of the branches of a condition the dearest counts. Everything
elementwise is left out, as is usual for shares of a matrix peak. What is
computed twice (rematerialisation) counts twice.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count(function: Callable[..., Any], *args: Any) -> int:
  """Operations of one call of a function on arrays or their shapes."""
  return _jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _jaxpr(jaxpr: core.Jaxpr) -> int:
  return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: core.JaxprEqn) -> int:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    left, _ = equation.invars
    (contracted, _), _ = params['dimension_numbers']
    inner = math.prod(left.aval.shape[axis] for axis in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * inner
  if name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    # All of the kernel but its filters meets every output.
    filters = kernel[params['dimension_numbers'].rhs_spec[0]]
    inner = math.prod(kernel) // filters
    return 2 * math.prod(equation.outvars[0].aval.shape) * inner
  inside = [_jaxpr(jaxpr) for jaxpr in _inner(params)]
  if name == 'cond':
    return max(inside)
  if name == 'scan':
    return params['length'] * sum(inside)
  if name == 'xla_pmap':
    return params['global_axis_size'] * sum(inside)
  if name == 'shard_map':
    return math.prod(params['mesh'].shape.values()) * sum(inside)
  return sum(inside)


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
  """The programs inside an equation: of loops, branches, calls."""
  found = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        found.append(item.jaxpr)
      elif isinstance(item, core.Jaxpr):
        found.append(item)
  return found
