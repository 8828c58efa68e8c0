"""Collectives of a compiled program: what they are, how often, how much.

Read from the text of the optimised program (`Compiled.as_text()`). Sizes are of
the results on one device; what a link carries depends on the topology.
"""

import collections
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

_COLLECTIVE = re.compile(
  r'(all-reduce|all-gather|reduce-scatter|collective-permute|'
  r'(?:ragged-)?all-to-all|collective-broadcast)(-start)?'
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
  r'(?:to_apply|calls|body|condition|\w+_computations?)='
  r'(?:\{([^}]*)\}|(%?[\w.\-]+))'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r'condition=%?([\w.\-]+)')
_ARRAY = re.compile(r'([a-z]+)(\d*)\w*\[([\d,]*)\]')
_OP_NAME = re.compile(r'op_name="([^"]*)"')


def find(text: str) -> list[dict[str, Any]]:
  """Lists every collective that a call of the program runs."""
  computations, entry = {}, ''
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      current = computations.setdefault(header[2], [])
      entry = header[2] if header[1] else entry
    elif match := _INSTRUCTION.match(line):
      current.append(match.groups())

  def trips(loop: str) -> int:
    """Stated, or the constant up to which a scan counts from 0."""
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

  def visit(name: str, times: int) -> Iterator[dict[str, Any]]:
    for result, opcode, rest in computations.get(name, ()):
      if match := _COLLECTIVE.fullmatch(opcode):
        # What it applies is only how two numbers are added.
        yield _collective(*match.groups(), result, rest, times)
        continue
      inner = times * (trips(rest) if opcode == 'while' else 1)
      for many, one in _CALLED.findall(rest):
        for target in (many or one).split(','):
          yield from visit(target.strip(' %'), inner)

  return list(visit(entry, 1))


def _collective(
  kind: str, start: str | None, result: str, rest: str, times: int
) -> dict[str, Any]:
  sizes = [
    math.prod(map(int, filter(None, shape.split(','))))
    * (1 if kind_of == 'pred' else int(bits or 0) / 8)
    for kind_of, bits, shape in _ARRAY.findall(result)
  ]
  if start and kind != 'all-reduce':
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


def totals(
  found: Sequence[dict[str, Any]], *keys: str
) -> dict[tuple[Any, ...], dict[str, float]]:
  """Adds up collectives by the values of `keys`; the largest first."""
  groups = collections.defaultdict(collections.Counter)
  for one in found:
    groups[tuple(one[key] for key in keys)].update(
      {
        'instructions': 1,
        'runs': one['times'],
        'arrays': one['arrays'],
        'MiB per step': one['bytes_per_step'] / 2**20,
      }
    )
  largest = sorted(groups.items(), key=lambda item: -item[1]['MiB per step'])
  return dict(largest)


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
