"""Every command of README.md and of docs/ is one that the programs take."""

import pathlib
import re
import shlex
import subprocess

import pytest

from data_prep import __main__ as data_prep_main
from jaxser import export, main, predict, tables
from jaxser.benchmark import __main__ as benchmark_main
from jaxser.core import command_line, config
from jaxser.report import __main__ as report_main

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


def programs(name):
  """Arguments of every command of one program."""
  split = [shlex.split(line) for line in commands()]
  return [words[3:] for words in split if words[:3] == ['python', '-m', name]]


def test_the_first_screen_has_the_two_commands():
  first = (ROOT / 'README.md').read_text('utf-8').split('\n## ')[0]
  run = 'pip install -e . && python -m jaxser.main --config=configs/timnet.py\n'
  assert f'    {run}' in first
  assert "    pip install -e '.[test]' && python -m pytest\n" in first


def test_no_command_is_of_an_unknown_kind():
  known = r'python -m (jaxser\.\w+|data_prep|pytest)\b|pip install -e|launch/'
  assert [line for line in commands() if not re.match(known, line)] == []
  assert len(commands()) > 20


PROGRAMS = {
  'jaxser.main': main,
  'jaxser.predict': predict,
  'jaxser.export': export,
  'jaxser.tables': tables,
  'jaxser.report': report_main,
  'jaxser.benchmark': benchmark_main,
}


@pytest.mark.parametrize('name', PROGRAMS)
def test_arguments_and_overrides_are_accepted(name):
  lines = programs(name)
  assert lines
  for words in lines:
    values = PROGRAMS[name].FLAGS
    command_line.parse(values, words)
    if 'config' in values and values.config is not None:
      config.validate(values.config)


def test_flags_of_data_prep_are_accepted():
  lines = programs('data_prep')
  assert lines
  for words in lines:
    data_prep_main.define_flags()(['data_prep', *words])


def test_launchers_are_there_and_know_their_options():
  lines = [shlex.split(c) for c in commands() if c.startswith('launch/')]
  assert lines
  for script, *words in lines:
    done = subprocess.run(
      [ROOT / script, '--dry_run', *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'jaxser.main' in done.stdout


def test_links_lead_somewhere():
  for page in PAGES:
    for link in _LINK.findall(page.read_text('utf-8')):
      if '://' not in link:
        assert (page.parent / link).exists(), f'{page.name}: {link}'
