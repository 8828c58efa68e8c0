"""A small table file, for tests of jaxser.tables."""

TABLE = """
from jaxser.tables import spec

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
  demo=(cell('demo'),),
)
"""
