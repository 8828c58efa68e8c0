"""python -m jaxser.predict: predicts the emotion of recordings with a model.

Examples:
  python -m jaxser.predict speech.wav
      With the model that comes with jaxser: acted German, seven emotions.
  python -m jaxser.predict --checkpoint=W speech.wav other.flac folder/
      One line per recording: the emotion and the probability of each, or
      valence, arousal and dominance. W is the --workdir of a run of
      jaxser.main; all of its folds and seeds are averaged.
  python -m jaxser.predict --checkpoint=W --format=csv folder/ > predictions.csv
      Thousands of recordings; those that cannot be read are listed, the others
      are predicted. Formats: table, csv, json, jsonl.
  python -m jaxser.predict --checkpoint=W --segment=3 --plot=talk.html talk.wav
      A long recording in segments of three seconds, and a page with a chart.
  python -m jaxser.predict [--checkpoint=W] --model_card
      What the model is, what it was trained on, and how good it is.
  sox -d -t wav - trim 0 4 | python -m jaxser.predict --checkpoint=W -
      From the standard input.
  python -m jaxser.predict --checkpoint=W --weights=wavlm-large speech.wav
      A model that was trained on stored hidden states of a WavLM.

Any sample rate, any number of channels (averaged), any format that libsndfile
reads, and where ffmpeg is installed m4a, aac, webm, amr and wma. The features
are those that the model was trained with. A recording that is longer than the
model's window is cut as in training, and a warning says so; --segment predicts
all of it. Silence and what is shorter than a frame get a reason instead.

Exit code: 0, 1 if a recording could not be used, 2 for wrong usage.
"""

import collections
import functools
import gc
import io
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from data_prep import command_line
from jaxser.models import options

FLAGS = flags.FlagValues()
options.define(FLAGS)
_path = functools.partial(
  command_line.define_path, default=None, flag_values=FLAGS
)
_enum = functools.partial(flags.DEFINE_enum, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
_boolean = functools.partial(flags.DEFINE_boolean, flag_values=FLAGS)
_path(
  'weights',
  text='Folder of the WavLM whose hidden states are the features of the model, '
  'as given to data_prep --features=wavlm.',
)
_formats = ['table', 'csv', 'json', 'jsonl']
_enum('format', 'table', _formats, 'How predictions are written to the output.')
flags.DEFINE_float(
  'segment',
  None,
  'Predict every so many seconds; default once for a recording.',
  flag_values=FLAGS,
)
_path(
  'embeddings',
  text='FILE.npz for the embedding of each recording (or segment).',
)
_path('plot', text='FILE.html for charts over time.')
_places = ['host', 'device']
_enum('features_on', 'host', _places, 'device for the log-mel of TIM-Net.')
_integer('batch_size', 0, 'Rows at once; 0 chooses.', lower_bound=0)
_integer(
  'num_workers',
  None,
  'Processes that read files; default one per core.',
  lower_bound=1,
)
_boolean(
  'model_card',
  False,
  'Print what the model is, what it was trained on and how good it is instead.',
)
_boolean(
  'timing', False, 'Measure latency and files/s on synthetic files instead.'
)

# Warnings of one kind that are printed one by one.
_MOST_WARNINGS = 5


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return command_line.run(_main, FLAGS, arguments, positional='FILE')


def _main(arguments: list[str]) -> int:
  segment, chosen = FLAGS.segment, options.chosen(FLAGS)
  if segment is not None and not 0 < segment < float('inf'):
    raise command_line.UsageError(
      f'--segment={segment:g} must be a number of seconds above 0; leave it out '
      'for one prediction per recording. See --help.'
    )
  if FLAGS.model_card:
    path = chosen['checkpoint'] / 'MODEL_CARD.md'
    try:
      print(path.read_text('utf-8'), end='')
    except OSError as error:
      raise command_line.UsageError(
        f'{path} cannot be read ({error.strerror}); give the --workdir of a run '
        'that is finished, or repeat its command.'
      ) from error
    return 0
  if not arguments and not FLAGS.timing:
    raise command_line.UsageError(
      'name files or folders to predict, or - for the standard input. See '
      '--help.'
    )
  # Importing and tracing make a million objects that stay: looking through them
  # again and again for garbage takes a tenth of the time.
  gc.set_threshold(100_000)
  from jaxser.core import files
  from jaxser.models import audio_features, builtin, predictor

  for flag in ('embeddings', 'plot'):
    if FLAGS[flag].value:
      _write(flag, files.check_writable)
  inputs = []
  if not FLAGS.timing:
    inputs = audio_features.find_inputs(arguments, sys.stdin.buffer)
  model = predictor.load(
    **chosen,
    weights=FLAGS.weights,
    segment=0.0 if FLAGS.timing else segment or 0.0,
    features_on=FLAGS.features_on,
    batch_size=FLAGS.batch_size,
  )
  description, count = model.description, len(model.models)
  if about := builtin.about(description.workdir):
    _say(f'Model {about}; --model_card says more.')
  left = description.unfinished(model.models[0].training.selection)
  if left and not FLAGS.seed and not FLAGS.fold:
    _say(
      f'Note: the run in {description.workdir} is not finished; {count} of '
      f'{count + left} models predict.'
    )
  if FLAGS.timing:
    from jaxser.models import latency

    measured = latency.measure(
      model, seconds=segment or 3.0, num_workers=FLAGS.num_workers
    )
    print('\n'.join(latency.lines(measured)))
    return 0
  return _predict(model, inputs)


def _predict(model: Any, inputs: list[Any]) -> int:
  """Writes predictions as they come; returns the exit code."""
  from data_prep import progress
  from jaxser.models import output

  segment, window = FLAGS.segment, model.extractor.window
  if segment and model.extractor.cuts(segment):
    _say(
      f'Warning: segments of {segment:g} s are longer than the {window:.2f} s '
      f'that this model uses; a part of each is used. --segment={window:.4g} '
      'uses everything.'
    )
  failures, cut, kept = [], [], []
  doubts: collections.Counter[str] = collections.Counter()
  bar = progress.Progress(
    len(inputs), show=len(inputs) > 1, unit='file', patience=10
  )

  def watched() -> Iterator[Any]:
    for recording in model.stream(inputs, num_workers=FLAGS.num_workers):
      if recording.error:
        failures.append(recording.error)
      elif FLAGS.embeddings or FLAGS.plot:
        kept.append(recording)
      # What has an error lasts 0 s.
      if not segment and model.extractor.cuts(recording.seconds):
        cut.append(recording)
      bar.advance(f'{len(failures)} failed')
      for doubt in recording.warnings:
        kind = doubt.partition(':')[0]
        doubts[kind] += 1
        if doubts[kind] <= _MOST_WARNINGS:
          _say(f'Warning: {recording.name}: {doubt}.')
      yield recording

  write = output.WRITERS[FLAGS.format]
  for line in write(watched(), model, [given.name for given in inputs]):
    bar.print(line, sys.stdout)
  bar.close()
  if FLAGS.embeddings:
    _write('embeddings', lambda path: write_embeddings(path, kept, model))
  if FLAGS.plot:
    from jaxser.report import timeline

    _write('plot', lambda path: timeline.write(path, kept, model.description))
  for kind, count in doubts.items():
    if count > _MOST_WARNINGS:
      _say(f'Warning: {count} recordings in all are {kind}.')
  if cut:
    part = cut[0]
    _say(
      f'Warning: {len(cut)} of {len(inputs)} recordings are longer than the '
      f'{window:.2f} s that this model uses, such as {part.name} '
      f'({part.seconds:.1f} s, of which {part.start:.1f} to {part.end:.1f} s '
      f'were used), and were cut as in training. --segment={window:.4g} '
      'predicts all of a recording.'
    )
  for failure in failures:
    _say(f'Error: {failure}')
  if failures:
    _say(f'{len(failures)} of {len(inputs)} recordings could not be used.')
  return int(bool(failures))


def _write(flag: str, write: Callable[[pathlib.Path], object]) -> None:
  """Calls write(path) for the path of a flag; a UsageError if it cannot."""
  try:
    write(FLAGS[flag].value)
  except OSError as error:
    raise command_line.UsageError(
      f'--{flag}={FLAGS[flag].value} cannot be written '
      f'({error.strerror or error}); give another file. See --help.'
    ) from error


def write_embeddings(
  path: pathlib.Path, recordings: Sequence[Any], model: Any
) -> None:
  """Writes a NumPy archive of arrays without objects; rows are segments.

  files [n], start and end [n] in seconds, embeddings float32 [n, models,
  width], and members [models], their names.
  """
  import numpy as np

  from jaxser.core import files

  rows = [(r.name, s) for r in recordings for s in r.pieces]
  buffer = io.BytesIO()
  np.savez(
    buffer,
    files=np.array([name for name, _ in rows], dtype=str),
    start=np.array([s.start for _, s in rows], np.float64),
    end=np.array([s.end for _, s in rows], np.float64),
    embeddings=np.array([s.embeddings for _, s in rows], np.float32),
    members=np.array([m.training.name for m in model.models], dtype=str),
  )
  files.write_bytes(path, buffer.getvalue())


def _say(text: str) -> None:
  print(text, file=sys.stderr)


if __name__ == '__main__':
  sys.exit(main())
