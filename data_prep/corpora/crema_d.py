"""CREMA-D from the TFDS data set of that name, in place of its wav files."""

import collections
import dataclasses
import os
import pathlib
import shutil
import wave
from collections.abc import Iterator

from data_prep.corpora import base
from data_prep.manifest import Manifest
from data_prep.tables import CorpusError

SAMPLE_RATE = 16_000
SPLITS = {'train': 'train', 'validation': 'dev', 'test': 'test'}


def utterances(
  tfds_dir: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[str, str, str, bytes]]:
  """Yields split, speaker, label and 16-bit samples, as TFDS orders them."""
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
          example['audio'].astype('<i2').tobytes(),
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
  folder: str | os.PathLike[str], tfds_dir: str | os.PathLike[str] | None = None
) -> pathlib.Path:
  """Writes the audio as `SPLIT/SPEAKER_LABEL_NUMBER.wav`, or finds it written.

  The folder gets its name when it is complete.
  """
  folder = pathlib.Path(folder).absolute()
  if folder.is_dir():
    return folder
  temporary = folder.with_name(f'.{folder.name}.{os.getpid()}.tmp')
  counts = collections.Counter()
  try:
    for split, speaker, label, samples in utterances(tfds_dir):
      counts[speaker, label] += 1
      name = f'{speaker}_{label}_{counts[speaker, label]:04d}.wav'
      path = temporary / split / name
      path.parent.mkdir(parents=True, exist_ok=True)
      with wave.open(str(path), 'wb') as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, 'NONE', ''))
        file.writeframes(samples)
    if not counts:
      raise CorpusError('crema_d from TFDS: the data set has no utterance.')
    os.replace(temporary, folder)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return folder


def parse(
  spec: base.Corpus,
  audio_dir: str | os.PathLike[str],
  *,
  on_error: str = 'raise',
  export_dir: str | os.PathLike[str] | None = None,
) -> Manifest:
  """Reads the TFDS data set `crema_d`, downloading it if TFDS has not yet.

  TFDS keeps neither file names nor sentences, so ids are counted and the text
  is unknown; its split by speaker becomes the column `split`. `audio_dir` is
  'tfds' or 'tfds:DIR'; `export_dir` gets the audio as wav files.
  """
  if not export_dir:
    raise CorpusError(f'{audio_dir}: a folder to keep its audio is needed.')
  tfds_dir = os.path.expanduser(str(audio_dir).partition(':')[2]) or None
  return base.from_names(spec, export(export_dir, tfds_dir), on_error=on_error)


def variant(spec: base.Corpus) -> base.Corpus:
  """Returns CREMA-D as TFDS has it."""
  # Its builder leaves out four recordings that its source could not serve.
  fewer = {'disgust': 1270, 'fear': 1270, 'neutral': 1086, 'sad': 1270}
  return dataclasses.replace(
    spec,
    title='CREMA-D (TFDS)',
    parser=parse,
    classes={**spec.classes, **fewer},
    patterns=(
      r'(?P<split>train|dev|test)/(?P<speaker>\d{4})_(?P<emotion>[A-Z]{3})_'
      r'(?P<number>\d+)',
    ),
    id='{speaker}_{emotion}_{number}',
    text='',
    example='train/1001_ANG_0001.wav',
    options={'export_dir': None},
  )
