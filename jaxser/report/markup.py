"""HTML from functions: what is not `Markup` is text and gets escaped.

Tags are always closed and attributes quoted, so a page made of these is both
HTML and well-formed XML.
"""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Characters that XML cannot hold, not even escaped: controls and surrogates.
_FORBIDDEN = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')
_VOID = frozenset({'br', 'hr', 'link', 'meta', 'col'})


class Markup(str):
  """Text that is HTML already."""

  __slots__ = ()


def escape(value: Any) -> Markup:
  """Any value as text that is safe in elements and quoted attributes."""
  if isinstance(value, Markup):
    return value
  return Markup(
    html.escape(_FORBIDDEN.sub('\N{REPLACEMENT CHARACTER}', str(value)))
  )


def join(parts: Iterable[Any], separator: str = '') -> Markup:
  """Escapes and joins."""
  return Markup(separator.join(escape(part) for part in parts))


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
  """An element; `class_` and `aria_label` become class and aria-label.

  Attributes that are None or False are left out; True stands for a present one.
  """
  opening = tag
  for name, value in attributes.items():
    if value is None or value is False:
      continue
    name = name.rstrip('_').replace('_', '-')
    opening += f' {name}="{name if value is True else escape(value)}"'
  if tag in _VOID:
    return Markup(f'<{opening} />')
  return Markup(f'<{opening}>{join(children)}</{tag}>')


def scrolling(table: Markup, label: str) -> Markup:
  """Lets a wide table scroll by itself, with the keyboard too."""
  return element(
    'div', table, class_='scroll', role='region', tabindex=0, aria_label=label
  )


def table(
  caption: Any,
  header: Sequence[Any],
  rows: Iterable[Sequence[Any]],
  *,
  class_: str | None = None,
) -> Markup:
  """A table whose first column names its rows; the others hold figures."""
  heads = [element('th', cell, scope='col') for cell in header]
  body = [
    element(
      'tr',
      element('th', row[0], scope='row'),
      *(element('td', cell) for cell in row[1:]),
    )
    for row in rows
  ]
  return element(
    'table',
    element('caption', caption),
    element('thead', element('tr', *heads)),
    element('tbody', *body),
    class_=class_,
  )


def facts(entries: Iterable[tuple[str, Any]]) -> Markup:
  """Names and values, one row each."""
  rows = [
    element('tr', element('th', name, scope='row'), element('td', value))
    for name, value in entries
  ]
  return element('table', element('tbody', *rows), class_='facts')


def flattened(tree: Any, prefix: str = '') -> list[tuple[str, str]]:
  """Nested settings as ('optimizer.learning_rate', '0.001') pairs."""
  if isinstance(tree, dict) and tree:
    return [
      pair
      for key, value in tree.items()
      for pair in flattened(value, f'{prefix}.{key}' if prefix else str(key))
    ]
  if isinstance(tree, list | tuple):
    text = ', '.join(str(value) for value in tree)
    return [(prefix, text or '(none)')]
  if tree is None or tree in ('', {}):
    return [(prefix, '(none)')]
  return [(prefix, str(tree).lower() if isinstance(tree, bool) else str(tree))]
