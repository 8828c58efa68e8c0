"""docs/config.md is what the comments of the recipes say now."""

import inspect
import pathlib

import pytest

from configs import __main__ as fields
from configs import common

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'config.md'


def test_the_page_is_up_to_date():
  written = PAGE.read_text('utf-8')
  assert written == fields.page(), 'run: python -m configs > docs/config.md'


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
