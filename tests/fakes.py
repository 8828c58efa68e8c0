"""Small corpora in memory, for tests of the engine."""

import numpy as np

from jaxser.data.corpus import Corpus, Table


def corpus(
  *,
  speakers: int = 4,
  classes: int = 3,
  repeats: int = 2,
  frames: int = 12,
  bins: int = 128,
  vary: bool = False,
  seed: int = 0,
) -> Corpus:
  """Every speaker says every class `repeats` times; features tell the class."""
  rng = np.random.default_rng(seed)
  rows = [
    (label, speaker, repeat)
    for label in range(classes)
    for speaker in range(speakers)
    for repeat in range(repeats)
  ]
  labels = np.array([r[0] for r in rows], np.int32)
  centres = 10 * rng.standard_normal((classes, 1, bins))
  lengths = rng.integers(frames // 2, frames + 1, len(rows))
  features = [
    (
      centres[label] + rng.standard_normal((length if vary else frames, bins))
    ).astype(np.float32)
    for label, length in zip(labels, lengths, strict=True)
  ]
  names = ('angry', 'fear', 'happy', 'neutral', 'sad')[:classes]
  table = Table(
    ids=np.array([f's{s}-{names[c]}-{r}' for c, s, r in rows]),
    labels=labels,
    speakers=np.array([f's{s}' for _, s, _ in rows]),
    genders=np.array(['female' if s % 2 else 'male' for _, s, _ in rows]),
    texts=np.array([f't{r}' for _, _, r in rows]),
    splits=np.array([''] * len(rows)),
    durations=np.array([len(f) / 100 for f in features], np.float32),
    vad=rng.uniform(1, 7, (len(rows), 3)).astype(np.float32),
  )
  info = {
    'corpus': 'fake',
    'features': 'librosa22k',
    'parameters': {'signal_length': 0},
    'fingerprint': '00000000',
    'max_length': frames,
    'feature_bins': bins,
    'frames_per_second': 100.0,
    'annotators': {},
  }
  return Corpus(
    name='fake',
    classes=names,
    vad_range=(1.0, 7.0),
    table=table,
    stores={'fake': info},
    read=lambda row: features[row],
    parts=np.full(len(rows), 'fake'),
  )
