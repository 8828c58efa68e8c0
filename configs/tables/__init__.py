"""Tables of papers: runs, published figures and tolerance. Data only."""

from typing import Any

from jaxser.report.tables import spec


def linear_baseline(
  name: str,
  arg: str,
  group: str,
  label: str = 'linear baseline',
  incomparable: str = '',
  **more: Any,
) -> spec.Cell:
  """Returns the cell of configs/baseline.py that stands in a group.

  It has no epochs to choose from; `more` are other fields of the cell.
  """
  figure = spec.Figure(group, 'last', incomparable=incomparable)
  config = 'configs/baseline.py'
  return spec.Cell(name, label, config, arg, (figure,), **more)
