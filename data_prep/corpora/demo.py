"""The demo corpus as an entry of the corpus table; see `data_prep.demo`."""

import re

from data_prep import demo
from data_prep.corpora import base

_PER_CLASS = len(demo.SPEAKERS) * len(demo.TEXTS) * len(demo.VERSIONS)

CORPUS = base.Corpus(
  name='demo',
  title='the demo corpus (synthetic)',
  parser=demo.demo_manifest,
  classes=dict.fromkeys(demo.CLASSES, _PER_CLASS),
  speakers=len(demo.SPEAKERS),
  languages=('zxx',),  # ISO 639: no linguistic content.
  signal_length=33_000,
  licence='CC0 1.0',
  homepage='',
  citation='',
  layout='demo_f1-a-angry-1.wav, ... as data_prep.demo.write_corpus makes them',
  vad_range=demo.VAD_RANGE,
  pattern=re.compile(
    rf'(?:^|/)demo_[fm]\d-[a-d]-(?:{"|".join(demo.CLASSES)})-\d\.wav$'
  ),
  example='demo_f1-a-angry-1.wav',
  expected=demo.utterance_names,
)
