"""Every kind of page, in a real browser: phone and paper, light and dark."""

import dataclasses
import shutil

import pytest

from jaxser import predict as predict_program
from jaxser import report
from jaxser.models import saved as models
from jaxser.report import pages
from tests import chromium, paper_table, runs, trained

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    chromium.find() is None, reason='no Chromium on this machine'
  ),
]


def _report_of_classes(folder):
  made = runs.class_predictions(seeds=(0, 1))
  long = {'03': 'session_05_female'}
  made = [
    dataclasses.replace(p, speaker=long.get(p.speaker, p.speaker)) for p in made
  ]
  (speech,) = trained.write_speech(folder, 1)
  for name in {p.id for p in made}:
    shutil.copy(speech, folder / f'{name}.wav')
  runs.write_heard(folder, made, folder)
  page = report.write_report(folder / 'w', baseline=folder / 'w')
  assert '<audio' in page.read_text('utf-8')
  return page


def _report_of_vad(folder):
  made = runs.vad_predictions(seeds=(0, 1))
  runs.write_run(folder / 'w', made, system='emosphere', sphere=runs.SPHERE)
  return report.write_report(folder / 'w')


def _comparison(folder):
  chosen = ('last', 'best_on_dev')
  made = runs.class_predictions(seeds=(0, 1), selections=chosen)
  fewer = [p for p in made if not p.id.endswith('a00')]
  names = ('first', 'second_with_a_name_as_long_as_people_give')
  for name, these in zip(names, (made, fewer), strict=True):
    runs.write_run(folder / name, these)
  workdirs = [folder / name for name in names]
  return pages.write_comparison(workdirs, folder / 'page.html')


def _table(folder):
  file, workdir = folder / 'file.py', folder / 'w'
  file.write_text(paper_table.TABLE)
  with pytest.MonkeyPatch.context() as patch:
    paper_table.pretend(patch)
    assert paper_table.run(file, f'--workdir={workdir}') == 0
  return workdir / 'table.html'


def _timeline(folder, name, **model):
  speech = trained.write_speech(folder, 2)
  run = trained.write_run(folder / 'w', name, speech, folds=1, **model)
  assert models.open(run.workdir).trainings
  page = folder / 'timeline.html'
  words = [f'--checkpoint={run.workdir}', '--segment=0.4', f'--plot={page}']
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('jaxser.core.runtime.enable_compilation_cache', lambda: None)
    assert predict_program.main([*words, *map(str, speech)]) == 0
  return page


SMALL = {'channels': (4, 4), 'embedding': 8, 'max_frames': 160}
PAGES = {
  'classes': _report_of_classes,
  'vad': _report_of_vad,
  'comparison': _comparison,
  'table': _table,
  'timeline': lambda folder: _timeline(folder, 'dsnet', **SMALL),
  'timeline_of_vad': lambda folder: _timeline(folder, 'emosphere', width=8),
}


@pytest.mark.parametrize('kind', PAGES)
def test_a_page_fits_is_silent_and_asks_for_nothing(kind, tmp_path):
  page = PAGES[kind](tmp_path)
  for medium, width in chromium.WIDTHS.items():
    shown = chromium.show(page, medium)
    assert shown.said == []
    assert shown.out == []
    assert shown.width <= width
    assert shown.height > 500
    if medium == 'dark':
      assert shown.background < 60 < 180 < shown.ink
    else:  # Nobody prints on black.
      assert shown.ink < 60 < 250 < shown.background


def test_what_is_wrong_with_a_page_would_be_seen(tmp_path):
  page = _report_of_classes(tmp_path)
  text = page.read_text('utf-8')
  # The policy of the page makes any request an error on the console.
  image = '<img src="https://example.org/x.png" alt="" />'
  for wrong in (image, '<script>1</script>'):
    page.write_text(text.replace('</body>', f'{wrong}</body>'))
    assert chromium.show(page, 'light').said
  wide = '<pre style="width: 500px">wide</pre></body>'
  page.write_text(text.replace('</body>', wide))
  shown = chromium.show(page, 'light')
  assert shown.width > 390
  assert shown.out == ['PRE wide']
