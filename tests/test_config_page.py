"""docs/config.md is what the comments of the recipes say now."""

import inspect
import pathlib
import textwrap

import pytest

from configs import __main__ as fields
from configs import common

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'config.md'


def test_the_page_is_up_to_date():
  written = PAGE.read_text('utf-8')
  assert written == fields.page(), 'run: python -m configs > docs/config.md'


def test_comments_are_read_where_they_stand():
  found = fields.settings(
    textwrap.dedent("""
      # Not of a field.
      other = 1
      # First line,
      # second.
      config.a = 3  # paper
      config.b = 30 if demo else 80  # authors' code
      # Group.
      config.c = ConfigDict(
        {
          # Inner.
          'd': arg['x'],  # authors' code, of 2020
          'e': 5,  # Twelve seconds.
        }
      )
      config.g.update(SIZES)  # paper
    """)
  )
  assert found == {
    'a': [('First line, second.', 'paper', {'3'})],
    'b': [('', "authors' code", {'30', '80'})],
    'c': [('Group.', '', {"'d'", "'x'", "'e'", '5'})],
    'c.d': [('Inner.', "authors' code, of 2020", set())],
    'c.e': [('', '', {'5'})],
    'g': [('', 'paper', set())],
  }
  assert fields._value(80, found['b']) == "`80` (authors' code)"
  assert fields._value(81, found['b']) == '`81`'
  assert (
    fields._value('mine', found['c.d']) == "`'mine'` (authors' code, of 2020)"
  )


def test_a_field_without_a_comment_is_an_error(monkeypatch):
  source = inspect.getsource(common)
  comment = '  # The first; it names initial values'
  line = next(x for x in source.splitlines() if x.startswith(comment))
  monkeypatch.setattr(
    inspect, 'getsource', lambda module: source.replace(line + '\n', '')
  )
  with pytest.raises(
    ValueError, match=r'no comment says what they mean: seed$'
  ):
    fields.page()
