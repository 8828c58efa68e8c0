"""Prediction: what a trained model says about recordings.

`python -m jaxser.predict --checkpoint=W speech.wav` on the command line;
`Predictor` and `measure` for programs.
"""

import importlib
from typing import Any

# Loaded when first used, so that --help need not wait for JAX.
_MODULES = {
  'Answer': 'engine',
  'Predictor': 'engine',
  'Recording': 'engine',
  'measure': 'timing',
}


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)
