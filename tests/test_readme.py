"""Every command of README.md and of docs/ is one that the programs take."""

import importlib
import pathlib
import re
import shlex
import subprocess

import pytest

from jaxser.core import command_line
from jaxser.core import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')))
_COMMAND = re.compile(r'^    ((?:python -m|pip|launch/).+)$', re.MULTILINE)
_LINK = re.compile(r'\]\(([^)#]+)\)')


def commands():
  found = []
  for page in PAGES:
    for line in _COMMAND.findall(page.read_text('utf-8')):
      found += [part.strip() for part in line.split('&&')]
  return sorted(set(found))


def flags_of(program):
  """The flags of a program, such as jaxser.main."""
  module = importlib.import_module(program)
  if hasattr(module, '__path__'):
    module = importlib.import_module(f'{program}.__main__')
  return module.FLAGS


def test_the_first_screen_has_the_two_commands():
  first = (ROOT / 'README.md').read_text('utf-8').split('\n## ')[0]
  run = 'pip install -e . && python -m jaxser.main --config='
  assert f'    {run}' in first
  assert "    pip install -e '.[test]' && python -m pytest\n" in first


def test_commands_are_of_known_kinds_and_links_lead_somewhere():
  known = r'python -m (jaxser\.\w+|data_prep|pytest)\b|pip install |launch/'
  assert [line for line in commands() if not re.match(known, line)] == []
  assert len(commands()) > 20
  for page in PAGES:
    for link in _LINK.findall(page.read_text('utf-8')):
      if '://' not in link:
        assert (page.parent / link).exists(), f'{page.name}: {link}'


@pytest.mark.parametrize(
  'command', [c for c in commands() if re.match('python -m (jaxser|data_p)', c)]
)
def test_flags_configs_and_overrides_are_accepted(command, monkeypatch):
  monkeypatch.chdir(ROOT)
  program, *words = shlex.split(command)[2:]
  flags = flags_of(program)
  # A wrong argument raises with its message.
  positional = command_line.parse(flags, words)
  assert not [word for word in positional if word.startswith('-')]
  if 'config' in flags and flags.config is not None:
    config_lib.validate(flags.config)


def test_launchers_are_there_and_know_their_options():
  lines = [shlex.split(c) for c in commands() if c.startswith('launch/')]
  assert lines
  for script, *words in lines:
    done = subprocess.run(
      [ROOT / script, '--dry_run', *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'jaxser.main' in done.stdout
