"""python -m jaxser.web: a local page that predicts the emotion of speech.

Examples:
  python -m jaxser.web
      With the model that comes with jaxser: acted German, seven emotions.
  python -m jaxser.web --checkpoint=W --segment=2 --port=8000
      With the models of a run of jaxser.main, every two seconds.

Record or drop a recording: the page shows the emotion over time on the
waveform, or valence, arousal and dominance and where they lie on the sphere,
and offers the table as CSV. It serves this computer only (127.0.0.1), and
recordings are deleted when it ends, which Ctrl-C does.

Needs Gradio: pip install -e '.[web]'

Exit code: 0, 2 for wrong usage.
"""

import html
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from data_prep import command_line
from jaxser.models import options

FLAGS = flags.FlagValues()
options.define(FLAGS)
command_line.define_path(
  'weights',
  None,
  'Folder of the WavLM whose hidden states are the features of the model.',
  flag_values=FLAGS,
)
flags.DEFINE_float(
  'segment',
  3.0,
  'Predict every so many seconds; 0 once for a recording.',
  lower_bound=0.0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  'port',
  0,
  'Of the page; 0 takes the first free one from 7860 on.',
  lower_bound=0,
  upper_bound=65535,
  flag_values=FLAGS,
)
flags.DEFINE_boolean(
  'open', True, 'Open the page in the browser.', flag_values=FLAGS
)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return command_line.run(_main, FLAGS, arguments, bare=True)


def _main(arguments: list[str]) -> None:
  del arguments
  try:
    import gradio
  except ImportError as error:
    raise command_line.UsageError(
      f"this page needs Gradio ({error}): pip install -e '.[web]'"
    ) from error
  from jaxser.models import predictor

  model = predictor.load(
    **options.chosen(FLAGS), weights=FLAGS.weights, segment=FLAGS.segment
  )
  shown = page(gradio, model)
  try:
    _, url, _ = shown.launch(
      server_name='127.0.0.1',
      server_port=FLAGS.port or None,
      inbrowser=FLAGS.open,
      prevent_thread_lock=True,
      quiet=True,
      footer_links=[],
    )
  except OSError as error:
    raise command_line.UsageError(
      f'--port={FLAGS.port} cannot be listened on; give another, or 0 for any '
      f'({error}).'
    ) from error
  print(f'{url} is open until you press Ctrl-C.', flush=True)
  shown.block_thread()


def predict(model: Any, path: pathlib.Path) -> tuple[str, str | None]:
  """Returns the predictions for a recording as HTML, and a file of them, CSV."""
  from data_prep import audio
  from jaxser.models import output
  from jaxser.models.audio_features import Input
  from jaxser.report import timeline

  (recording,) = model.stream([Input(path.name, path)], num_workers=1)
  if recording.error:
    style = 'padding: .6em .9em; border-left: 4px solid #b7791f'
    words = html.escape(recording.error)
    return f'<p role="alert" style="{style}">{words}</p>', None
  waves = [audio.envelope(path)]
  shown = timeline.page([recording], model.description, waves, header=False)
  table = path.parent / f'{path.stem}.csv'
  rows = output.csv_rows([recording], model, [recording.name])
  table.write_text('\n'.join([*rows, '']), 'utf-8')
  # A document of its own, so that neither style sheet meets the other's page.
  fit = 'style.height = contentDocument.documentElement.scrollHeight + "px"'
  return (
    f'<iframe title="Emotion over time" onload=\'{fit}\' '
    f'style="width: 100%; border: 0" srcdoc="{html.escape(shown)}"></iframe>'
  ), str(table)


def page(gradio: Any, model: Any) -> Any:
  """Returns the `gradio.Blocks` that shows the predictions of a `Predictor`."""
  from jaxser.report import timeline

  def update(path: str | None) -> tuple[str, Any]:
    if path is None:
      return '', gradio.DownloadButton(visible=False)
    shown, table = predict(model, pathlib.Path(path))
    return shown, gradio.DownloadButton(value=table, visible=table is not None)

  # Recordings and tables are looked for each minute and live for an hour.
  blocks = gradio.Blocks(
    title='jaxser', analytics_enabled=False, delete_cache=(60, 3600)
  )
  with blocks:
    gradio.Markdown(
      f'# Speech emotion\n\n{timeline.describe(model.description)}'
    )
    audio = gradio.Audio(
      type='filepath',
      label='File or microphone',
      buttons=['download'],
    )
    shown = gradio.HTML()
    table = gradio.DownloadButton('Download as CSV', visible=False)
    audio.change(update, audio, [shown, table], api_name='predict')
  return blocks


if __name__ == '__main__':
  sys.exit(main())
