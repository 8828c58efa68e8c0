"""The local page: in a browser, with a microphone that plays a file."""

import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import scipy.io.wavfile

import jaxser
from data_prep import audio
from jaxser import web
from tests import chromium, trained


@pytest.fixture
def sound(tmp_path):
  (path,) = trained.write_speech(tmp_path, 1)
  return path


def test_predictions_are_those_of_predict(sound, trained_run):
  """As a page with the waveform, for a regression with the sphere, and CSV."""
  model = jaxser.load(trained_run('emosphere').workdir, segment=1.0)
  page, table = web.predict(model, sound)
  for shown in ('Value over time', 'On the sphere, from the side'):
    assert shown in page
  rows = pathlib.Path(table).read_text('utf-8').splitlines()
  assert rows[0].startswith('file,seconds,start,end,valence,arousal,dominance')
  recording = model.predict(sound)
  assert len(rows) == 1 + len(recording.segments) > 2
  mean = np.mean([s.vad['valence'] for s in recording.segments])
  assert f'valence&lt;/th&gt;&lt;td&gt;{mean:.2f}&lt;' in page
  valence = float(rows[1].split(',')[4])
  assert valence == pytest.approx(recording.segments[0].vad['valence'], 1e-4)


def test_the_waveform_is_that_of_the_whole_recording(sound):
  """Though nothing is predicted of the silence at its end."""
  rate, samples = scipy.io.wavfile.read(sound)
  scipy.io.wavfile.write(sound, rate, np.pad(samples, (0, 4 * rate)))
  low, high = audio.envelope(sound).T
  assert len(low) == 800
  assert low.min() * 2**15 == samples.min()
  assert high.max() * 2**15 == samples.max()
  assert not low[-600:].any()
  page, _ = web.predict(jaxser.load(segment=1.0), sound)
  ticks = re.findall(r'&gt;(\d)&lt;/text', page)
  assert {'0', '4', '5'} <= {*ticks}


def test_a_file_without_sound_gets_its_reason(tmp_path):
  path = tmp_path / '<b>.wav'
  path.write_text('no sound')
  page, table = web.predict(jaxser.load(), path)
  assert '&lt;b&gt;.wav' in page
  assert table is None


def test_without_gradio_says_what_to_install(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  assert web.main([]) == 2
  assert "pip install -e '.[web]'" in capsys.readouterr().err


@pytest.mark.slow
def test_microphone_and_file_in_a_browser(sound, tmp_path):
  pytest.importorskip('gradio')
  playwright = pytest.importorskip('playwright.sync_api')
  if chromium.find() is None:
    pytest.skip('no Chromium on this machine')
  command = [sys.executable, '-m', 'jaxser.web', '--noopen', '--segment=1']
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    url = server.stdout.readline().split()[0]
    assert url.startswith('http://127.0.0.1:')
    flags = [
      '--no-sandbox',
      '--use-fake-device-for-media-stream',
      '--use-fake-ui-for-media-stream',
      f'--use-file-for-fake-audio-capture={sound}',
    ]
    with playwright.sync_playwright() as play:
      browser = play.chromium.launch(
        executable_path=chromium.find(), args=flags
      )
      page = browser.new_page()
      asked = []
      page.on('request', lambda request: asked.append(request.url))
      page.goto(url)
      page.get_by_label('Record audio').first.click()
      page.get_by_role('button', name='Record', exact=True).click()
      page.wait_for_timeout(2500)
      page.get_by_role('button', name='Stop', exact=True).click()
      emotion, name = map(
        page.frame_locator('iframe').locator, ('.overall', 'h2')
      )
      emotion.wait_for(timeout=60_000)
      assert emotion.inner_text() in jaxser.load().description.classes
      page.reload()
      page.set_input_files('input[type=file]', sound)
      name.wait_for(timeout=60_000)
      assert name.inner_text() == sound.name
      with page.expect_download() as download:
        page.get_by_text('Download as CSV').click()
      shutil.copy(download.value.path(), tmp_path / 'table.csv')
      browser.close()
    assert sound.name in (tmp_path / 'table.csv').read_text('utf-8')
    outside = [u for u in asked if not u.startswith((url, 'data:', 'blob:'))]
    assert not outside
    server.terminate()
