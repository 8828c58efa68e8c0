"""Compiled programs kept between runs, so that only the first one waits."""

import os
import pathlib

import jax


def directory() -> pathlib.Path:
  """$JAXSER_CACHE_DIR, or ~/.cache/jaxser; safe to delete at any time."""
  chosen = os.environ.get('JAXSER_CACHE_DIR')
  return pathlib.Path(chosen or pathlib.Path.home() / '.cache' / 'jaxser')


def enable() -> None:
  """Turns JAX's persistent cache on, unless the user chose a folder for it."""
  if jax.config.jax_compilation_cache_dir is None:
    jax.config.update('jax_compilation_cache_dir', str(directory() / 'xla'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
