"""Tensors of the goldens: their values follow from their names."""

import zlib

import numpy as np


def _generator(name):
  return np.random.default_rng(zlib.crc32(name.encode()))


def data(name, shape):
  return _generator(name).standard_normal(shape).astype(np.float32)


def tensor(name, shape):
  """A parameter or statistic, see tests/data/goldens/README.md."""
  value = _generator(name).standard_normal(shape)
  kind = name.rpartition('.')[2]
  if kind in ('running_var', 'moving_variance'):
    value = 0.5 + _generator(name).random(shape)
  elif name == 'C.activation.weight':
    value = np.full(shape, 0.25)
  elif kind in ('bias', 'beta', 'running_mean', 'moving_mean'):
    value = 0.1 * value
  elif len(shape) == 1:
    value = 1 + 0.1 * value
  else:
    value /= np.sqrt(np.prod(shape[:-1] if kind == 'kernel' else shape[1:]))
  return value.astype(np.float32)
