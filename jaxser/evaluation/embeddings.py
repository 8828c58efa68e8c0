"""embeddings.npz: where a trained model puts utterances, for the report.

NumPy's archive without pickled objects, so `numpy.load` reads it anywhere. One
row per fold and utterance; the first fold has its training, development and
test split, the others (whose weights differ, so that their embeddings cannot be
compared with these) their test split:

  fold     int64 [n]        speaker  text [n], '' unknown
  id       text [n]         label    text [n], class, '' unknown
  side     text [n], train, dev or test
  NAME     float32 [n, width], one array for each of the system's embeddings:
           'embedding', or DSNet's 'relevant', 'irrelevant' and 'encoding'
  map.NAME float32 [n, 2], its view in two dimensions (`probes.tsne_2d`) of rows
           of the first fold, NaN elsewhere
  about    text, JSON: {"seed", "selection", "names", "weights", "probes",
           "region_head"}; the last two as in `jaxser.engine.inspection.inspect`
"""

import dataclasses
import io
import json
import os
import pathlib
from typing import Any
from zipfile import BadZipFile

import numpy as np

from jaxser.core import files
from jaxser.evaluation.predictions import PredictionsError

NAME = 'embeddings.npz'
SIDES = ('train', 'dev', 'test')
_TEXTS = ('id', 'speaker', 'label', 'side')


class EmbeddingsError(PredictionsError):
  """embeddings.npz cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
  """The content of embeddings.npz; the top of this module has the fields."""

  fold: np.ndarray
  id: np.ndarray
  speaker: np.ndarray
  label: np.ndarray
  side: np.ndarray
  spaces: dict[str, np.ndarray]  # NAME, by NAME.
  maps: dict[str, np.ndarray]  # map.NAME, by NAME.
  about: dict[str, Any]

  def mapped(self) -> np.ndarray:
    """Returns bool [n], rows that have a place on the maps."""
    known = [np.isfinite(value).all(-1) for value in self.maps.values()]
    return np.logical_and.reduce(known)


def write(workdir: os.PathLike[str] | str, embeddings: Embeddings) -> None:
  """Writes embeddings.npz whole or not at all."""
  buffer = io.BytesIO()
  arrays: dict[str, Any] = {
    'fold': embeddings.fold,
    **{name: getattr(embeddings, name).astype(str) for name in _TEXTS},
    **embeddings.spaces,
    **{f'map.{name}': value for name, value in embeddings.maps.items()},
    'about': np.array(json.dumps(embeddings.about, sort_keys=True)),
  }
  np.savez_compressed(buffer, **arrays)
  files.write_bytes(pathlib.Path(workdir) / NAME, buffer.getvalue())


def read(workdir: os.PathLike[str] | str) -> Embeddings | None:
  """Reads embeddings.npz of a run; None if there is no such file."""
  path = pathlib.Path(workdir) / NAME
  if not path.is_file():
    return None
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
      held = dict(archive)
    about = json.loads(str(held.pop('about')))
    if len({len(value) for value in held.values()}) > 1:
      raise ValueError('its arrays differ in length')
    return Embeddings(
      fold=held['fold'],
      **{name: held[name] for name in _TEXTS},
      spaces={name: held[name] for name in about['names']},
      maps={name: held[f'map.{name}'] for name in about['names']},
      about=about,
    )
  except (OSError, LookupError, TypeError, ValueError, BadZipFile) as error:
    raise EmbeddingsError(
      f'{path} cannot be read ({type(error).__name__}: {error}); delete it and '
      'start the command of the run again, which computes it anew.'
    ) from error
