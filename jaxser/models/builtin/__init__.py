"""Trained models that come with jaxser, by name; each is a work folder."""

import pathlib

from jaxser.core.files import Path

ABOUT = {
  'timnet-emodb': 'TIM-Net, trained on all of EmoDB: acted German, seven '
  'emotions; UAR 63.40 (59.25 to 67.73) on speakers that it was not trained on',
}
"""What each is, in one line. The figure is that of the run that chose the epochs,
see MODEL_CARD.md."""
DEFAULT = 'timnet-emodb'


def find(checkpoint: Path) -> pathlib.Path:
  """Returns the work folder of a path or name; a folder that exists wins."""
  path = pathlib.Path(checkpoint).expanduser()
  if str(path) in ABOUT and not path.exists():
    return pathlib.Path(__file__).parent / path
  return path


def about(workdir: pathlib.Path) -> str:
  """Returns what a built-in model is, '' for a folder of the user."""
  name = workdir.name
  mine = name in ABOUT and workdir == pathlib.Path(__file__).parent / name
  return f'{name}: {ABOUT[name]}' if mine else ''
