"""Collectives of a compiled program: what they are, how often, how much.

Read from the text of the optimised program (`Compiled.as_text()`). Sizes are of
the results on one device; what a link carries depends on the topology.
"""

import collections
import math
import re
from collections.abc import Sequence
from typing import Any

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'collective-permute',
  'all-to-all',
  'ragged-all-to-all',
  'collective-broadcast',
)
# Parts of an operation's name that transformations put in.
_WRAPPER = re.compile(
  r'shard_map|while|body|closed_call|checkpoint|cond|branch_\d+_fun|.*[(<].*'
)
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_INSTRUCTION = re.compile(
  r'^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\((.*)$'
)
_CALLED = re.compile(
  r'(?:to_apply|calls|body|condition|true_computation|false_computation|'
  r'called_computations|branch_computations)=(?:\{([^}]*)\}|(%?[\w.\-]+))'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r'condition=%?([\w.\-]+)')
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,]*)\]')
_OP_NAME = re.compile(r'op_name="([^"]*)"')


def find(text: str) -> list[dict[str, Any]]:
  """Lists every collective that a call of the program runs.

  Args:
    text: the optimised program, from `Compiled.as_text()`.

  Returns:
    'kind', 'bytes' (of the results on one device, once), 'times' that it runs in
    one call, by the trip counts of the loops around it (1 where the program does
    not state one; every branch of a condition counts), 'arrays' that it carries
    together, 'source' in the traced program, its 'origin', and 'bytes_per_step'.
  """
  computations, entry = _parse(text)

  def visit(name: str, times: int) -> list[dict[str, Any]]:
    found = []
    for result, opcode, rest in computations.get(name, ()):
      kind = opcode.removesuffix('-start')
      if kind in KINDS:
        # What it applies is only how two numbers are added.
        found.append(_collective(kind, opcode, result, rest, times))
        continue
      inner = times * (_trips(rest, computations) if opcode == 'while' else 1)
      for many, one in _CALLED.findall(rest):
        for target in (many or one).split(','):
          found += visit(target.strip().lstrip('%'), inner)
    return found

  return visit(entry, 1)


def _parse(text: str) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
  """(result type, opcode, rest) of instructions by computation; the entry."""
  computations: dict[str, list[tuple[str, str, str]]] = {}
  entry, current = '', []
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      current = computations.setdefault(header[2], [])
      entry = header[2] if header[1] else entry
    elif match := _INSTRUCTION.match(line):
      current.append(match.groups())
  return computations, entry


def _trips(loop: str, computations: dict[str, Any]) -> int:
  """Iterations of a loop; 1 where the program does not state them.

  Stated in the loop's own attributes, or as the constant that the counter is
  compared with: scans count from 0 in steps of 1.
  """
  if stated := _TRIPS.search(loop):
    return int(stated[1])
  condition = computations.get(_CONDITION.search(loop)[1], [])
  limits = [
    int(rest.partition(')')[0])
    for _, opcode, rest in condition
    if opcode == 'constant' and re.match(r'-?\d+\)', rest)
  ]
  counts_up = condition and 'direction=LT' in condition[-1][2]
  return limits[0] if counts_up and len(limits) == 1 else 1


def _collective(
  kind: str, opcode: str, result: str, rest: str, times: int
) -> dict[str, Any]:
  sizes = [
    math.prod(map(int, filter(None, shape.split(',')))) * _bits(dtype) / 8
    for dtype, shape in _ARRAY.findall(result)
  ]
  if opcode.endswith('-start') and kind != 'all-reduce':
    # The result of an asynchronous start holds the operands first.
    sizes = sizes[len(sizes) // 2 :]
  named, size = _OP_NAME.search(rest), round(sum(sizes))
  source = named[1] if named else ''
  return {
    'kind': kind,
    'bytes': size,
    'times': times,
    'arrays': len(sizes),
    'source': source,
    'origin': origin(source),
    'bytes_per_step': times * size,
  }


def _bits(dtype: str) -> int:
  bits = re.search(r'\d+', dtype)
  return 8 if dtype == 'pred' else int(bits[0]) if bits else 0


def totals(found: Sequence[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
  """Adds up collectives that have the same `keys`; the largest first.

  Returns:
    The keys, 'instructions', the 'runs' of all of them, 'arrays' and
    'bytes_per_step'.
  """
  groups = collections.defaultdict(list)
  for one in found:
    groups[tuple(one[key] for key in keys)].append(one)
  rows = [
    {
      **dict(zip(keys, values, strict=True)),
      'instructions': len(same),
      'runs': sum(c['times'] for c in same),
      'arrays': sum(c['arrays'] for c in same),
      'bytes_per_step': sum(c['bytes_per_step'] for c in same),
    }
    for values, same in groups.items()
  ]
  return sorted(rows, key=lambda row: -row['bytes_per_step'])


def origin(source: str) -> str:
  """Returns where in the network a collective comes from.

  'jit(train_step)/transpose(jvp(Network))/encoder/bn/reduce_sum' is 'backward:
  encoder/bn/reduce_sum'. Of several that the compiler combined, the first.
  """
  path = source.partition(':')[0].rstrip(')')
  direction = 'forward' if 'jvp(' in path else 'step'
  if 'transpose(' in path:
    direction = 'backward'
  names = [name for name in path.split('/') if not _WRAPPER.fullmatch(name)]
  # Modules inside modules of the same name tell nothing new.
  return f'{direction}: {"/".join(dict.fromkeys(names)) or "not named"}'
