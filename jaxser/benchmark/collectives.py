"""What the devices of a compiled program say to each other, and how much.

Read from the text of the optimised program (`Compiled.as_text()`). Sizes are of
the results on one device; what a link carries depends on the topology.
"""

import dataclasses
import math
import re
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

# Parts of a name that transformations put in.
_WRAPPER = re.compile(
  r'while|body|closed_call|checkpoint|cond|branch_\d+_fun|.*[(<].*'
)
_BITS = {'pred': 8, 'token': 0}
_COMPUTATION = re.compile(r'^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$')
_INSTRUCTION = re.compile(
  r'^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?) '
  r'(?P<opcode>[a-z][\w\-]*)\((?P<rest>.*)$'
)
_CALLED = re.compile(
  r'(?:to_apply|calls|body|condition|true_computation|false_computation|'
  r'called_computations|branch_computations)='
  r'(?:\{(?P<many>[^}]*)\}|%?(?P<one>[\w.\-]+))'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r'condition=%?([\w.\-]+)')
_CONSTANT = re.compile(r'^(-?\d+)\)')
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,]*)\]')
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective instruction of a program.

  Attributes:
    kind: one of `KINDS`.
    bytes: of its results on one device, once.
    times: how often it runs in one call, by the trip counts of the loops around
      it; a loop whose count the program does not state counts once, and every
      branch of a condition as if it were taken.
    arrays: arrays that it carries together.
    source: name of the operation in the traced program.
  """

  kind: str
  bytes: int
  times: int
  arrays: int
  source: str


def find(text: str) -> list[Collective]:
  """Every collective that a call of the program runs.

  Args:
    text: the optimised program, from `Compiled.as_text()`.

  Raises:
    ValueError: if the text holds no program.
  """
  computations, entry = _read(text)
  if entry is None:
    raise ValueError(
      'the text of the compiled program has no ENTRY computation; give what '
      'Compiled.as_text() returns'
    )
  found: list[Collective] = []

  def visit(name: str, times: int) -> None:
    for instruction in computations.get(name, ()):
      opcode, rest = instruction['opcode'], instruction['rest']
      kind = opcode.removesuffix('-start')
      if kind in KINDS:
        found.append(_collective(kind, opcode, instruction, times))
        continue  # What it applies is only how two numbers are added.
      inner = times
      if opcode == 'while':
        inner *= _trips(rest, computations)
      for called in _CALLED.finditer(rest):
        for target in (called['many'] or called['one']).split(','):
          visit(target.strip().lstrip('%'), inner)

  visit(entry, 1)
  return found


def _trips(loop: str, computations: dict[str, list[dict[str, str]]]) -> int:
  """Iterations of a loop; 1 where the program does not state them.

  Stated in the loop's own attributes, or as the constant that the counter is
  compared with: scans count from 0 in steps of 1.
  """
  stated = _TRIPS.search(loop)
  if stated:
    return int(stated[1])
  condition = computations.get(_CONDITION.search(loop)[1], [])
  limits = [
    int(value[1])
    for instruction in condition
    if instruction['opcode'] == 'constant'
    and (value := _CONSTANT.match(instruction['rest']))
  ]
  last = condition[-1] if condition else {'opcode': '', 'rest': ''}
  counts_up = last['opcode'] == 'compare' and 'direction=LT' in last['rest']
  return limits[0] if counts_up and len(limits) == 1 else 1


def _read(text: str) -> tuple[dict[str, list[dict[str, str]]], str | None]:
  """Instructions by computation, and the name of the entry."""
  computations: dict[str, list[dict[str, str]]] = {}
  entry = current = None
  for line in text.splitlines():
    if not line.startswith((' ', '}')) and line.endswith('{'):
      header = _COMPUTATION.match(line)
      if header:
        current = computations.setdefault(header['name'], [])
        if header['entry']:
          entry = header['name']
      continue
    match = _INSTRUCTION.match(line)
    if match and current is not None:
      current.append(match.groupdict())
  return computations, entry


def _collective(
  kind: str, opcode: str, instruction: dict[str, str], times: int
) -> Collective:
  sizes = [
    math.prod(map(int, filter(None, shape.split(',')))) * _bytes(dtype)
    for dtype, shape in _ARRAY.findall(instruction['type'])
  ]
  if opcode.endswith('-start') and kind != 'all-reduce':
    # The result of an asynchronous start holds the operands first.
    sizes = sizes[len(sizes) // 2 :]
  source = _OP_NAME.search(instruction['rest'])
  return Collective(
    kind=kind,
    bytes=round(sum(sizes)),
    times=times,
    arrays=len(sizes),
    source=source[1] if source else '',
  )


def _bytes(dtype: str) -> float:
  if dtype in _BITS:
    return _BITS[dtype] / 8
  bits = re.search(r'\d+', dtype)
  return int(bits[0]) / 8 if bits else 0


def listed(found: list[Collective]) -> list[dict[str, Any]]:
  """Each collective as a dictionary for JSON, with 'bytes_per_step'."""
  return [
    {**dataclasses.asdict(c), 'bytes_per_step': c.times * c.bytes}
    for c in found
  ]


def grouped(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Collectives of one kind, origin and number of runs as one, the largest first.

  Args:
    items: of `listed`.

  Returns:
    Dictionaries of 'kind', 'origin' (see `origin`), 'instructions', 'times'
    that each of them runs, 'arrays' and 'bytes_per_step' of all.
  """
  groups: dict[tuple[str, str, int], dict[str, Any]] = {}
  for item in items:
    key = item['kind'], origin(item['source']), item['times']
    group = groups.setdefault(
      key,
      {
        **dict(zip(('kind', 'origin', 'times'), key, strict=True)),
        'instructions': 0,
        'arrays': 0,
        'bytes_per_step': 0,
      },
    )
    group['instructions'] += 1
    group['arrays'] += item['arrays']
    group['bytes_per_step'] += item['bytes_per_step']
  return sorted(groups.values(), key=lambda g: -g['bytes_per_step'])


def origin(source: str) -> str:
  """Where in the network a collective comes from, without the transformations.

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


def summary(found: list[Collective]) -> dict[str, dict[str, int]]:
  """By kind: instructions, how often they run, and bytes, each per call."""
  return {
    kind: {
      'instructions': len(of_kind),
      'runs': sum(c.times for c in of_kind),
      'bytes': sum(c.times * c.bytes for c in of_kind),
    }
    for kind in KINDS
    if (of_kind := [c for c in found if c.kind == kind])
  }
