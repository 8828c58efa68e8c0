"""`python -m data_prep`: prepares a corpus for training."""

import os
import pathlib
import sys
import textwrap
from collections.abc import Sequence

from absl import flags

import data_prep
from data_prep import corpora
from data_prep.errors import UserError
from data_prep.tables import CorpusError

# Name, default, help, and the values of a choice.
_TEXT_FLAGS = (
  ('corpus', None, 'Name of the corpus, see above.'),
  ('audio_dir', None, 'Folder that holds the corpus; not needed for demo.'),
  (
    'features',
    'librosa22k',
    'Feature spec, see above.',
    ['librosa22k', 'kaldi16k', 'wave16k', 'egemaps', 'compare', 'wavlm'],
  ),
  ('data_dir', None, 'Where stores lie, see below.'),
  (
    'resampler',
    None,
    'Only --features=librosa22k: another way to resample than the published '
    'one (kaiser_best_v03), to see what it costs.',
    ['kaiser_best_v03', 'kaiser_best_v04', 'soxr_hq'],
  ),
  (
    'weights',
    None,
    'Only --features=wavlm: folder of a Hugging Face WavLM (config.json and '
    'model.safetensors).',
  ),
  (
    'on_error',
    'raise',
    'What a file that cannot be used does: stop, or become a row of '
    'rejected.tsv.',
    ['raise', 'skip'],
  ),
  (
    'manifest',
    None,
    'Only --corpus=manifest: your table; by default AUDIO_DIR/manifest.tsv.',
  ),
  (
    'name',
    None,
    'Only --corpus=manifest: what your corpus is called, as in corpus=NAME of '
    'jaxser.main; by default the name of the table.',
  ),
  (
    'rows',
    None,
    'Only --corpus=msp_podcast: agreed (default) leaves out utterances without '
    'agreement on a class (X) and keeps those of another class (O) without a '
    'label; all keeps both; classes keeps the eight classes only.',
    ['agreed', 'all', 'classes'],
  ),
)
_NUMBER_FLAGS = (
  (
    'signal_length',
    'Samples at 22,050 Hz that librosa22k pads or cuts to; by default the '
    'number of the corpus above. Cross-corpus runs need one number for all '
    '(100000 in the TIM-Net paper).',
  ),
  (
    'layer',
    'Only --features=wavlm: the layer whose output is kept, from 1; by default '
    'the last.',
  ),
  (
    'num_workers',
    'Processes that extract features; by default one per core.',
  ),
)
_SWITCHES = (
  (
    'allow_incomplete',
    'Go on where the corpus differs from the published one.',
  ),
  (
    'overwrite',
    'Extract again, even if the same store is there, and remove stores of this '
    'corpus that have the same features and parameters from other files.',
  ),
  ('help', 'Show this text.'),
)


def define_flags() -> flags.FlagValues:
  """Returns the flags of this program, as an object of their own."""
  values = flags.FlagValues()
  for name, default, text, *choices in _TEXT_FLAGS:
    define = flags.DEFINE_enum if choices else flags.DEFINE_string
    define(name, default, *choices, text, flag_values=values)
  for name, text in _NUMBER_FLAGS:
    low = 1 if name == 'num_workers' else None
    flags.DEFINE_integer(name, None, text, low, flag_values=values)
  for name, text in _SWITCHES:
    short = 'h' if name == 'help' else None
    flags.DEFINE_boolean(name, False, text, values, short_name=short)
  flags.DEFINE_list(
    'vad_range',
    None,
    'Only --corpus=manifest: lowest and highest value of the VAD scale, as in '
    '1,7.',
    flag_values=values,
  )
  return values


def help_text() -> str:
  """Returns everything a user needs to know."""
  values = define_flags()
  lines = []
  for flag in (values[name] for name in values if name != 'h'):
    default = '' if flag.default in (None, False) else f' ({flag.default})'
    lines += textwrap.wrap(
      f'--{flag.name}{default}: {flag.help}',
      78,
      initial_indent='  ',
      subsequent_indent=' ' * 6,
    )
  specs = corpora.CORPORA.values()
  text = pathlib.Path(__file__).with_name('help.txt').read_text('utf-8')
  return text.format(
    corpora='\n'.join(line for spec in specs for line in _corpus_text(spec)),
    flags='\n'.join(lines),
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


def main(argv: Sequence[str]) -> int:
  """Runs the program.

  Args:
    argv: The program's name and its arguments.

  Returns:
    Exit status: 0 done, 2 for an error that the user can mend, 130 after
    Ctrl-C.
  """
  # File names that are not UTF-8 are shown escaped.
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='backslashreplace')
  values = define_flags()
  try:
    rest = values(list(argv))[1:]
    if rest:
      raise CorpusError(
        f'{" ".join(rest)!r}: is not a flag; every argument is --NAME=VALUE.'
      )
    if values.help or len(argv) == 1:
      print(help_text())
      return 0
    if not values.corpus:
      raise CorpusError(
        f'--corpus is missing; choose one of {", ".join(corpora.CORPORA)}.'
      )
    _prepare(values)
  # Any other error is a bug and shows where it is.
  except (flags.Error, UserError, OSError) as error:
    print(f'error: {error}\n(python -m data_prep --help)', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('\nstopped; no store was written', file=sys.stderr)
    return 130
  return 0


def _prepare(values: flags.FlagValues) -> None:
  options = {
    name: values[name].value
    for name in ('manifest', 'name', 'rows')
    if values[name].value is not None
  }
  if values.vad_range is not None:
    options['vad_range'] = _vad_range(values.vad_range)
  from data_prep import prepare  # Only here: help comes without NumPy.

  prepare.prepare_corpus(
    values.corpus,
    values.audio_dir,
    features=values.features,
    data_dir=values.data_dir,
    signal_length=values.signal_length,
    resampler=values.resampler,
    on_error=values.on_error,
    allow_incomplete=values.allow_incomplete,
    num_workers=values.num_workers,
    overwrite=values.overwrite,
    weights=values.weights,
    layer=values.layer,
    **options,
  )


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


if __name__ == '__main__':
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  sys.exit(main(sys.argv))
