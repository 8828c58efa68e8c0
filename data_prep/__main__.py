"""`python -m data_prep`: prepares a corpus for training."""

import functools
import os
import pathlib
import sys
import textwrap
from collections.abc import Sequence

from absl import flags

import data_prep
from data_prep import command_line, corpora
from data_prep.tables import CorpusError

FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_enum = functools.partial(flags.DEFINE_enum, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
_boolean = functools.partial(flags.DEFINE_boolean, flag_values=FLAGS)
_string('corpus', None, 'Name of the corpus, see above.')
_string('audio_dir', None, 'Folder that holds the corpus; not needed for demo.')
_enum(
  'features',
  'librosa22k',
  ['librosa22k', 'kaldi16k', 'wave16k', 'egemaps', 'compare', 'wavlm'],
  'Feature spec, see above.',
)
_string('data_dir', None, 'Where stores lie, see above.')
_integer(
  'signal_length',
  None,
  'Samples at 22,050 Hz that librosa22k pads or cuts to; by default the number '
  'of the corpus above. Cross-corpus runs need one number for all (100000 in '
  'the TIM-Net paper).',
)
_enum(
  'resampler',
  None,
  ['kaiser_best_v03', 'kaiser_best_v04', 'soxr_hq'],
  'Only --features=librosa22k: another way to resample than the published one '
  '(kaiser_best_v03), to see what it costs.',
)
_string(
  'weights',
  None,
  'Only --features=wavlm: folder of a Hugging Face WavLM (config.json and '
  'model.safetensors).',
)
_integer(
  'layer',
  None,
  'Only --features=wavlm: the layer whose output is kept, from 1; by default '
  'the last.',
)
_enum(
  'on_error',
  'raise',
  ['raise', 'skip'],
  'What a file that cannot be used does: stop, or become a row of '
  'rejected.tsv.',
)
_string(
  'manifest',
  None,
  'Only --corpus=manifest: your table; by default AUDIO_DIR/manifest.tsv.',
)
_string(
  'name',
  None,
  'Only --corpus=manifest: what your corpus is called, as in corpus=NAME of '
  'jaxser.main; by default the name of the table.',
)
flags.DEFINE_list(
  'vad_range',
  None,
  'Only --corpus=manifest: lowest and highest value of the VAD scale, as in '
  '1,7.',
  flag_values=FLAGS,
)
_enum(
  'rows',
  None,
  ['agreed', 'all', 'classes'],
  'Only --corpus=msp_podcast: agreed (default) leaves out utterances without '
  'agreement on a class (X) and keeps those of another class (O) without a '
  'label; all keeps both; classes keeps the eight classes only.',
)
_integer(
  'num_workers',
  None,
  'Processes that extract features; by default one per core.',
  lower_bound=1,
)
_boolean(
  'allow_incomplete',
  False,
  'Go on where the corpus differs from the published one.',
)
_boolean(
  'overwrite',
  False,
  'Extract again, even if the same store is there, and remove stores of this '
  'corpus that have the same features and parameters from other files.',
)


def about() -> str:
  """Returns what --help says before the flags."""
  specs = corpora.CORPORA.values()
  text = pathlib.Path(__file__).with_name('help.txt').read_text('utf-8')
  return text.format(
    corpora='\n'.join(line for spec in specs for line in _corpus_text(spec)),
    data_dir=data_prep.default_data_dir(),
  )


def _corpus_text(spec: corpora.Corpus) -> list[str]:
  """Returns one paragraph of the help text."""
  facts = [f'{spec.count:,} utterances'] if spec.count else []
  facts += [f'{spec.speakers} speakers'] if spec.speakers else []
  facts += [', '.join(spec.languages)] if spec.languages else []
  if spec.vad_range:
    low, high = spec.vad_range
    facts.append(f'VAD {low:g} to {high:g}')
  facts.append(f'signal_length {spec.signal_length:,}')
  classes = [
    name if count is None else f'{name} {count:,}'
    for name, count in spec.classes.items()
  ]
  paragraphs = [
    f'{spec.title}: {"; ".join(facts)}',
    f'classes: {", ".join(classes)}' if classes else '',
    f'files: {spec.layout}',
    f'licence: {spec.licence}',
    spec.homepage,
  ]
  indent = ' ' * 14
  lines = []
  for paragraph in filter(None, paragraphs):
    lines += textwrap.wrap(
      paragraph,
      78,
      initial_indent=indent,
      subsequent_indent=indent + '  ' * bool(lines),
      break_long_words=False,
      break_on_hyphens=False,
    )
  lines[0] = f'  {spec.name:12}{lines[0].lstrip()}'
  return lines


def main(arguments: Sequence[str]) -> None:
  """Prepares the corpus that the flags name."""
  del arguments
  corpus = FLAGS.corpus or ('manifest' if FLAGS.manifest else '')
  if not corpus:
    raise CorpusError(
      f'--corpus is missing; choose one of {", ".join(corpora.CORPORA)}.'
    )
  options = {
    name: FLAGS[name].value
    for name in ('manifest', 'name', 'rows')
    if FLAGS[name].value is not None
  }
  if FLAGS.vad_range is not None:
    options['vad_range'] = _vad_range(FLAGS.vad_range)
  from data_prep import prepare  # Only here: help comes without NumPy.

  try:
    prepare.prepare_corpus(
      corpus,
      FLAGS.audio_dir,
      features=FLAGS.features,
      data_dir=FLAGS.data_dir,
      signal_length=FLAGS.signal_length,
      resampler=FLAGS.resampler,
      on_error=FLAGS.on_error,
      allow_incomplete=FLAGS.allow_incomplete,
      num_workers=FLAGS.num_workers,
      overwrite=FLAGS.overwrite,
      weights=FLAGS.weights,
      layer=FLAGS.layer,
      **options,
    )
  except OSError as error:
    # Audio and stores lie where the user says.
    raise CorpusError(f'{error}.') from error


def _vad_range(texts: Sequence[str]) -> tuple[float, float]:
  try:
    low, high = map(float, texts)
  except ValueError:
    low, high = 1.0, 0.0
  if not low < high:
    raise CorpusError(
      f'--vad_range={",".join(texts)}: must be the lowest and the highest value '
      'of the scale, as in --vad_range=1,7.'
    )
  return low, high


run = functools.partial(command_line.run, main, FLAGS, about=about)


if __name__ == '__main__':
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  sys.exit(run())
