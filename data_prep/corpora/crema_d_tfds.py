"""Takes the audio of CREMA-D out of the TFDS data set of that name."""

import collections
import os
import pathlib
import shutil
import wave
from collections.abc import Iterator

import numpy as np

from data_prep.manifest import CorpusError

SAMPLE_RATE = 16_000
SPLITS = {'train': 'train', 'validation': 'dev', 'test': 'test'}


def utterances(
  tfds_dir: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[str, str, str, np.ndarray]]:
  """Yields split, speaker, label and audio, in the order of the data set.

  Args:
    tfds_dir: Where TFDS keeps its data sets; None for its default.

  Yields:
    ('train' | 'dev' | 'test', '1001', 'ANG', int16 `[samples]` at 16 kHz).

  Raises:
    CorpusError: TFDS is not installed, or cannot read or make the data set.
  """
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise CorpusError(
      'crema_d from TFDS: tensorflow-datasets is not installed '
      f'({error}); install it, or give a folder with the wav files as '
      '--audio_dir.'
    ) from error
  try:
    builder = tfds.builder('crema_d', data_dir=tfds_dir)
    builder.download_and_prepare()
    labels = builder.info.features['label']
    for name, ours in SPLITS.items():
      for example in tfds.as_numpy(builder.as_dataset(split=name)):
        yield (
          ours,
          example['speaker_id'].decode(),
          labels.int2str(int(example['label'])),
          example['audio'].astype(np.int16),
        )
  # TFDS downloads, checks and decodes, and has an exception for each mishap.
  except Exception as error:
    raise CorpusError(
      f'crema_d from TFDS: the data set cannot be read or made '
      f'({type(error).__name__}: {error}). Give '
      'the folder where TFDS keeps it as --audio_dir=tfds:DIR, or a folder with '
      'the wav files.'
    ) from error


def export(
  folder: str | os.PathLike[str],
  tfds_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """Writes the audio as `SPLIT/SPEAKER_LABEL_NUMBER.wav`, or finds it written.

  The folder gets its name when it is complete.

  Raises:
    CorpusError: see `utterances`.
  """
  folder = pathlib.Path(folder).absolute()
  if folder.is_dir():
    return folder
  temporary = folder.with_name(f'.{folder.name}.{os.getpid()}.tmp')
  counts = collections.Counter()
  try:
    for split, speaker, label, audio in utterances(tfds_dir):
      counts[speaker, label] += 1
      path = (
        temporary
        / split
        / (f'{speaker}_{label}_{counts[speaker, label]:04d}.wav')
      )
      path.parent.mkdir(parents=True, exist_ok=True)
      with wave.open(str(path), 'wb') as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(audio.astype('<i2').tobytes())
    if not counts:
      raise CorpusError('crema_d from TFDS: the data set has no utterance.')
    os.replace(temporary, folder)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return folder
