"""From audio files to a feature store: parsers, features, the demo corpus."""

import os
import pathlib


def default_data_dir() -> pathlib.Path:
  """Where stores lie unless told otherwise: $JAXSER_DATA_DIR or ~/jaxser_data."""
  chosen = os.environ.get('JAXSER_DATA_DIR')
  return pathlib.Path(chosen) if chosen else pathlib.Path.home() / 'jaxser_data'
