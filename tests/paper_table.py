"""A small table file, for tests of jaxser.tables, and runs without training."""

from jaxser import tables
from jaxser.core import command_line, files
from jaxser.core import config as config_lib
from jaxser.engine import opening, train
from jaxser.report.tables import summary
from tests import runs

TABLE = """
from jaxser.report.tables import spec

def cell(corpus, **more):
  return spec.Cell(
    name=f'{corpus}-published',
    label=corpus.upper(),
    config='configs/timnet.py',
    arg=f'corpus={corpus},protocol=published',
    figures=(
      spec.Figure('best', 'best_on_test', PAPER.get(corpus, {}), SOURCE),
      spec.Figure('last', 'last'),
    ),
    **more,
  )

SOURCE = 'Somebody 2020, Table 1'
PAPER = {'emodb': {'uar': 80.0, 'war': 99.0}, 'savee': {'uar': 10.0}}
TABLE = spec.Table(
  title='A <table>',
  metrics=('uar', 'war'),
  tolerance={'uar': 5.0, 'war': 5.0},
  cells=(
    cell('emodb'),
    cell('savee', baseline='emodb-published'),
    cell('casia', on_request='needs a | store of its own'),
  ),
  averages=(spec.Average('best', 'average of all'),),
  published=(spec.Published('last', 'frozen', {'uar': 91.25}, 'Others 2024'),),
  demo=(cell('demo'),),
)
"""


def run(file, *arguments) -> int:
  """Runs `python -m jaxser.tables`; returns the exit code."""
  words = [str(file), *map(str, arguments)]
  return command_line.run(tables.main, tables.FLAGS, words, positional='FILE')


class Calls(list):
  """Names of the folders trained; `errors` are to be raised, by corpus."""

  def __init__(self):
    super().__init__()
    self.errors: dict[str, BaseException] = {}


def pretend(monkeypatch) -> Calls:
  """Pretends that all is prepared, and to train; returns the calls."""
  made = Calls()

  def train_run(config, folder, command=''):
    if config.corpus in made.errors:
      files.write_json(folder / 'config.json', config_lib.to_json(config))
      raise made.errors[config.corpus]
    made.append(folder.name)
    predictions = runs.class_predictions(each=40)
    about = {'corpus': config.corpus, 'protocol': config.protocol}
    runs.write_run(folder, predictions, command=command, **about)
    files.write_json(folder / 'config.json', config_lib.to_json(config))

  monkeypatch.setattr(train, 'run', train_run)
  monkeypatch.setattr(opening, 'find', lambda config, name: None)
  monkeypatch.setattr('jax.clear_caches', lambda: None)
  # These runs have few utterances of the real corpora.
  monkeypatch.setattr(summary.corpora, 'CORPORA', {})
  return made
