"""Speech emotion recognition in JAX.

    model = jaxser.load('runs/emodb')
    print(model.predict('speech.wav'))

docs/api.md shows the rest. What is named here is imported when it is used.
"""

import importlib
from typing import Any

__version__ = '0.1.0'

_PUBLIC = {
  'UserError': ('jaxser.core.errors', 'UserError'),
  'load': ('jaxser.models.predictor', 'load'),
  'metrics': ('jaxser.evaluation.metrics', ''),
  'ops': ('jaxser.ops', ''),
  'train': ('jaxser.engine.train', 'train'),
}


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module, attribute = _PUBLIC[name]
  found = importlib.import_module(module)
  return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
  return sorted(['__version__', *_PUBLIC])
