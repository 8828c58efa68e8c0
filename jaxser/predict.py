"""python -m jaxser.predict: what a trained model says about recordings.

Examples:
  python -m jaxser.predict --checkpoint=W speech.wav other.flac folder/
      One line per recording: the emotion and the probability of each, or
      valence, arousal and dominance. W is the --workdir of a run of
      jaxser.main; all of its folds and seeds are averaged.
  python -m jaxser.predict --checkpoint=W --format=csv folder/ > answers.csv
      Thousands of recordings; those that cannot be read are listed, the others
      are answered. Formats: table, csv, json, jsonl.
  python -m jaxser.predict --checkpoint=W --segment=3 --plot=talk.html talk.wav
      A long recording in segments of three seconds, and a page with a chart.
  sox -d -t wav - trim 0 4 | python -m jaxser.predict --checkpoint=W -
      From the standard input.
  python -m jaxser.predict --checkpoint=W --weights=wavlm-large speech.wav
      A model that was trained on stored hidden states of a WavLM.

Any sample rate, any number of channels (averaged), any format that libsndfile
reads. The features are those that the model was trained with. A recording that
is longer than what the model heard in training is cut as in training, and a
warning says so; --segment answers for all of it.

Exit code: 0, 1 if a recording could not be used, 2 for wrong usage.
"""

import argparse
import io
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np

from jaxser.models import options as member_options


class _OutputError(Exception):
  """A file cannot be written; the message says which, why, what to do."""


def parser() -> argparse.ArgumentParser:
  """The command line."""
  made = argparse.ArgumentParser(
    prog='python -m jaxser.predict',
    usage='python -m jaxser.predict --checkpoint=W [options] FILE|FOLDER|- ...',
    description=__doc__.partition('\n')[2],
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = made.add_argument
  add('inputs', nargs='*', metavar='FILE', help='files, folders, - for stdin')
  add('--checkpoint', metavar='W', help='work folder of a training run')
  add(
    '--weights',
    metavar='DIR',
    help='folder of the WavLM whose hidden states the model hears, as given to '
    'data_prep --features=wavlm',
  )
  add('--format', default='table', help='table (default), csv, json, jsonl')
  add(
    '--segment',
    type=float,
    metavar='SECONDS',
    help='answer for every so many seconds; default once for a recording',
  )
  add(
    '--embeddings',
    metavar='FILE.npz',
    help='write what the network makes of each recording (or segment)',
  )
  add('--plot', metavar='FILE.html', help='write charts over time')
  member_options.add_to(made)
  add(
    '--features_on',
    default='host',
    help='host (default), or device for the log-mel of TIM-Net',
  )
  add('--batch_size', type=int, default=0, metavar='N', help='rows at once')
  add(
    '--num_workers',
    type=int,
    metavar='N',
    help='processes that read files; default one per core',
  )
  add(
    '--timing',
    action='store_true',
    help='measure latency and files/s on made-up files instead',
  )
  return made


def main(arguments: Sequence[str] | None = None) -> int:
  """Predicts; returns the exit code."""
  arguments = sys.argv[1:] if arguments is None else list(arguments)
  made = parser()
  if not arguments:
    made.print_help()
    return 0
  options = made.parse_args(arguments)
  problem = _problem(options)
  if problem:
    return _fail(problem)
  # Imported late, so that --help is quick.
  from data_prep.audio import AudioError
  from data_prep.workers import WorkerError
  from jaxser.core import files, runtime
  from jaxser.models.audio_features import InputError
  from jaxser.models.convert import ConvertError
  from jaxser.models.weights import ModelError

  runtime.quiet_without_tpu()
  runtime.enable_compilation_cache()
  for stream in (sys.stdout, sys.stderr):
    # File names need not be UTF-8.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  try:
    if options.timing:
      return _timing(options)
    for flag, path in (
      ('embeddings', options.embeddings),
      ('plot', options.plot),
    ):
      if path:
        _write(flag, path, files.check_writable)
    return _predict(options)
  except (
    ModelError,
    ConvertError,
    InputError,
    AudioError,
    WorkerError,
    _OutputError,
  ) as error:
    return _fail(str(error))
  except KeyboardInterrupt:
    print('\nStopped; what was answered so far stands above.', file=sys.stderr)
    return 130
  except BrokenPipeError:
    # The reader (head, say) has seen enough.
    _close_output()
    return 0
  except OSError as error:
    if error.filename is not None:
      raise
    _close_output()
    return _fail(
      f'the answers cannot be written ({error.strerror}); make room where '
      'the standard output goes.'
    )


def _problem(options: argparse.Namespace) -> str:
  """What is wrong with the command line, '' if nothing is."""
  from jaxser.models import audio_features as hearing
  from jaxser.models import output

  if not options.checkpoint:
    return 'give --checkpoint=W, the --workdir of a run of jaxser.main.'
  if not options.inputs and not options.timing:
    return 'name files or folders to predict, or - for the standard input.'
  for flag, value, valid in (
    ('format', options.format, output.FORMATS),
    ('features_on', options.features_on, hearing.FEATURES_ON),
  ):
    if value not in valid:
      return f'--{flag}={value} is not valid; choose one of {", ".join(valid)}.'
  if options.segment is not None and not 0 < options.segment < float('inf'):
    return (
      f'--segment={options.segment:g} must be a number of seconds above 0; '
      'leave it out for one answer per recording.'
    )
  if options.batch_size < 0:
    return f'--batch_size={options.batch_size} must be at least 1.'
  if options.num_workers is not None and options.num_workers < 1:
    return f'--num_workers={options.num_workers} must be at least 1.'
  return member_options.problem(options)


def _open(options: argparse.Namespace):
  """The description and the members that were asked for."""
  from jaxser.models import ensemble as members
  from jaxser.models import saved as models

  description = models.open(options.checkpoint, options.weights)
  chosen = member_options.choose(options, description)
  left = members.unfinished(description, chosen[0].selection)
  if left and not options.seed and not options.fold:
    _say(
      f'Note: the run in {options.checkpoint} is not finished; {len(chosen)} of '
      f'{len(chosen) + len(left)} trainings answer.'
    )
  return description, members.load(description, chosen)


def _predict(options: argparse.Namespace) -> int:
  from jaxser.models import audio_features as hearing
  from jaxser.models import output
  from jaxser.models import predictor as engine
  from jaxser.report import timeline

  inputs = hearing.find_inputs(options.inputs, sys.stdin.buffer)
  description, members = _open(options)
  predictor = engine.Predictor(
    description,
    members,
    segment=options.segment or 0.0,
    features_on=options.features_on,
    batch_size=options.batch_size,
  )
  writer = output.WRITERS[options.format](
    sys.stdout,
    description,
    [member.training for member in members],
    [given.name for given in inputs],
    bool(options.segment),
  )
  window = predictor.ears.window
  if options.segment and predictor.ears.cuts(options.segment):
    _say(
      f'Warning: segments of {options.segment:g} s are longer than the '
      f'{window:.2f} s that this model hears; a part of each is used. '
      f'--segment={window:.4g} uses everything.'
    )
  kept, failures, cut = [], [], []
  shown = output.Progress(len(inputs))
  for recording in predictor.predict(inputs, num_workers=options.num_workers):
    writer.write(recording)
    shown.advance(bool(recording.error))
    if recording.error:
      failures.append(recording.error)
      continue
    if not options.segment and predictor.ears.cuts(recording.seconds):
      cut.append(recording)
    if options.embeddings or options.plot:
      kept.append(recording)
  shown.close()
  writer.close()
  if options.embeddings:
    _write(
      'embeddings',
      options.embeddings,
      lambda path: write_embeddings(path, kept, members),
    )
  if options.plot:
    _write(
      'plot', options.plot, lambda path: timeline.write(path, kept, description)
    )
  if cut:
    part = cut[0].answer
    _say(
      f'Warning: {len(cut)} of {len(inputs)} recordings are longer than the '
      f'{window:.2f} s that this model hears, such as {cut[0].name} '
      f'({cut[0].seconds:.1f} s, of which {part.start:.1f} to {part.end:.1f} s '
      f'were heard), and were cut as in training. --segment={window:.4g} '
      'answers for all of a recording.'
    )
  for failure in failures:
    _say(f'Error: {failure}')
  if failures:
    _say(f'{len(failures)} of {len(inputs)} recordings could not be used.')
  return 1 if failures else 0


def _write(flag: str, path: str, write: Callable[[str], None]) -> None:
  """Calls write(path); raises _OutputError where the path cannot be written."""
  try:
    write(path)
  except OSError as error:
    raise _OutputError(
      f'--{flag}={path} cannot be written ({error.strerror or error}); give '
      'another file.'
    ) from error


def write_embeddings(path: str, recordings, members) -> None:
  """Writes a NumPy archive of arrays without objects.

  files [n], start and end [n] in seconds, embeddings float32 [n, members,
  width], and members [members], their names. Rows are segments.
  """
  from jaxser.core import files
  from jaxser.evaluation import curves

  rows = [(r.name, s) for r in recordings for s in r.segments]
  names = [
    f'{curves.run_name(m.training.seed, m.training.fold)}.{m.training.selection}'
    for m in members
  ]
  buffer = io.BytesIO()
  np.savez(
    buffer,
    files=np.array([name for name, _ in rows], dtype=str),
    start=np.array([s.start for _, s in rows], np.float64),
    end=np.array([s.end for _, s in rows], np.float64),
    embeddings=np.array([s.embeddings for _, s in rows], np.float32),
    members=np.array(names, dtype=str),
  )
  files.write_bytes(pathlib.Path(path), buffer.getvalue())


def _timing(options: argparse.Namespace) -> int:
  from jaxser.models import timing

  description, members = _open(options)
  measured = timing.measure(
    description,
    members,
    features_on=options.features_on,
    batch_size=options.batch_size,
    num_workers=options.num_workers,
    **({'seconds': options.segment} if options.segment else {}),
  )
  print('\n'.join(timing.lines(measured)))
  return 0


def _close_output() -> None:
  """Nothing may be flushed at exit."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> None:
  print(text, file=sys.stderr)


def _fail(message: str) -> int:
  _say(f'Error: {message} See --help.')
  return 2


if __name__ == '__main__':
  sys.exit(main())
