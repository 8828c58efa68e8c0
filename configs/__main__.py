"""python -m configs > docs/config.md: every field, its default and its meaning.

The meaning of a field is the comment above it, in common.py or in the recipe, or
what its system's docstring says. Behind a value, or an update of a group, a
comment says where it comes from: `# paper` or `# authors' code`; without one,
jaxser chose it.
"""

import ast
import importlib
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ml_collections

from configs import common
from jaxser.core.config import flatten
from jaxser.systems import registry

# The arguments whose values are shown.
RECIPES = {
  'timnet': ('corpus=emodb',),
  'dsnet': ('corpus=emodb',),
  'emosphere': (
    'corpus=emotale',
    'corpus=msp_podcast,encoder=wavlm,weights=DIR',
    'corpus=emotale,encoder=wavlm,frozen',
  ),
  'baseline': ('corpus=emodb',),
}
# Said by the arguments, or figures and not settings.
_LEFT_OUT = ('system', 'corpus', 'protocol', 'paper.', 'published_folds.')
_HEAD = """# Config fields

Every field can be set with `--config.FIELD=VALUE`. Where a value comes from is said in brackets: the paper or the authors' code; without them,
jaxser chose it. This page is written by `python -m configs > docs/config.md` from the comments in `configs` and the docstrings of the systems.
"""


class Setting(NamedTuple):
  """A line of a recipe that sets a field.

  Attributes:
    meaning: the comment above it.
    source: the comment behind it, where that is a source.
    constants: values that the line holds, as text; none if they are computed.
  """

  meaning: str
  source: str
  constants: set[str]


def settings(source: str) -> dict[str, list[Setting]]:
  """Returns the lines of a recipe by the field that they set, in their order."""
  above, behind = {}, {}
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      alone = not token.line[: token.start[1]].strip()
      (above if alone else behind)[token.start[0]] = token.string[1:].strip()

  def read(line: int, last: int, value: ast.AST) -> Setting:
    first = line
    while first - 1 in above:
      first -= 1
    # A constant index of something is not the value.
    named = isinstance(value, ast.Subscript)
    constants = (
      ()
      if named
      else (n.value for n in ast.walk(value) if isinstance(n, ast.Constant))
    )
    return Setting(
      ' '.join(above[i] for i in range(first, line)),
      (re.match(r"(paper|authors' code).*|", behind.get(last, '')) or '')[0],
      set(map(repr, constants)),
    )

  found: dict[str, list[Setting]] = {}
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.Assign | ast.Expr):
      continue
    lines = {}
    for target in getattr(node, 'targets', [node.value]):
      text = ast.unparse(target).partition('.update(')[0]
      root, _, field = text.partition('.')
      if root == 'config' and field:
        lines[field] = node.lineno, node.end_lineno, node.value
        for group in ast.walk(node.value):
          if isinstance(group, ast.Dict):
            for key, value in zip(group.keys, group.values, strict=True):
              name = f'{field}.{key.value}'
              lines[name] = key.lineno, value.end_lineno, value
    for name, where in lines.items():
      found.setdefault(name, []).append(read(*where))
  return found


def attributes(system: str) -> dict[str, str]:
  """Returns what the docstrings of a system say of its fields."""
  found = {}
  for kind in registry.find(system).__mro__:
    text = (inspect.getdoc(kind) or '').partition('Attributes:\n')[2]
    for names, about in re.findall(
      r'^  (\w+(?:,\s+\w+)*): (.+(?:\n    .+)*)', text, re.M
    ):
      about = ' '.join(about.split())
      for name in re.split(r',\s+', names):
        found.setdefault(name, about[0].upper() + about[1:])
  return found


def _value(value: Any, lines: list[Setting]) -> str:
  """Returns a value and where it comes from."""
  text = repr(tuple(value) if isinstance(value, list) else value)
  sources = [
    line.source
    for line in lines
    if line.source and (not line.constants or text in line.constants)
  ]
  return f'`{text}`' + (f' ({sources[0]})' if sources else '')


def _row(*cells: str) -> str:
  return ' | '.join(cell.replace('|', r'\|') for cell in cells)


def _table(header: tuple[str, ...], rows: Mapping[str, list[str]]) -> str:
  """Returns a table whose last column is the meaning.

  Raises:
    ValueError: if a field has none.
  """
  without = [
    name
    for name, cells in rows.items()
    # The comment above a group of fields may speak for all of them.
    if not cells[-1] and name.rpartition('.')[0] not in rows
  ]
  if without:
    raise ValueError(f'no comment says what they mean: {", ".join(without)}')
  return '\n'.join(
    f'| {_row(*cells)} |'
    for cells in (
      header,
      ['---'] * len(header),
      *((f'`{name}`', *cells) for name, cells in rows.items()),
    )
  )


def page() -> str:
  """Returns docs/config.md."""
  base = common.base_config('timnet', dict(common.ARGUMENTS))
  shared = settings(inspect.getsource(common))
  rows = {}
  for field, lines in shared.items():
    value = base
    for part in field.split('.'):
      value = value[part]
    if not isinstance(value, ml_collections.ConfigDict):
      rows[field] = [_value(value, lines), lines[0].meaning]
    elif lines[0].meaning:
      rows[field] = ['', lines[0].meaning]
  header = ('field', 'default', 'meaning')
  parts = [_HEAD, '## Every recipe', _table(header, rows)]
  for name in RECIPES:
    parts += _recipe(name, flatten(base), shared)
  return '\n\n'.join(part.strip('\n') for part in parts) + '\n'


def _recipe(
  name: str, base: Mapping[str, Any], shared: Mapping[str, list[Setting]]
) -> Iterator[str]:
  """Yields the section of a recipe: its own fields and other defaults."""
  module = importlib.import_module(f'configs.{name}')
  own = settings(inspect.getsource(module))
  columns = [flatten(module.get_config(arg)) for arg in RECIPES[name]]
  about = attributes(columns[0]['system'])
  rows: dict[str, list[str]] = {}
  for field in sorted({field for column in columns for field in column}):
    if field.startswith(_LEFT_OUT):
      continue
    values = [column.get(field) for column in columns]
    if all(field in base and value == base[field] for value in values):
      continue
    group = field.rpartition('.')[0]
    lines = own.get(field) or own.get(group, [])
    said = [*shared.get(field, []), *own.get(field, [])[:1]]
    meanings = [line.meaning for line in said]
    meanings += [about.get(field.removeprefix('model.'), '')]
    meanings += [line.meaning for line in shared.get(group, [])]
    rows[field] = [
      '' if value is None else _value(value, lines) for value in values
    ] + [next(filter(None, meanings), '')]
  heads = [f'`{arg}`' for arg in RECIPES[name]]
  yield f'## {name}'
  if len(heads) == 1:
    yield f'The fields of its own, and those with another default, with `--config={name}:{RECIPES[name][0]}`.'
    heads = ['default']
  else:
    yield f'The fields of its own, and those with another default, by the arguments of `--config={name}`.'
  yield _table(('field', *heads, 'meaning'), rows)


if __name__ == '__main__':
  sys.stdout.write(page())
