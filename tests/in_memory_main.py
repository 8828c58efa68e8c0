"""`python -m jaxser.main` on a small corpus in memory, without TensorFlow.

For tests that start several processes: most of the time of the real program is
TensorFlow's import. Batches come as they do where TensorFlow reads them ahead;
tests/test_pipeline.py shows that those are the same.
"""

import sys

from jaxser import main
from jaxser.core import command_line
from jaxser.data import pipeline
from jaxser.engine import opening
from tests import fakes


def corpus(config):
  """Five speakers, three classes, thirty utterances."""
  del config
  return fakes.corpus(speakers=5, classes=3, repeats=2, frames=16)


def stream(source, slots, process_index=0, process_count=1):
  """`pipeline.stream` for a corpus in memory."""
  for slot in slots:
    yield source.batch(*slot.part(process_index, process_count))


def install(patch=setattr):
  """Puts both in the place of the real ones."""
  patch(opening, 'open_corpus', corpus)
  patch(pipeline, 'stream', stream)


if __name__ == '__main__':
  install()
  sys.exit(command_line.run(main.main, main.FLAGS))
