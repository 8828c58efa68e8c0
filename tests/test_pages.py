"""Every kind of page, in a real browser: phone and paper, light and dark."""

import pytest

from jaxser import predict as predict_program
from jaxser import report
from jaxser.models import saved as models
from jaxser.report import pages
from tests import chromium, paper_table, runs, trained

KINDS = ('classes', 'vad', 'comparison', 'table', 'talk', 'talk_of_vad')
SPHERE = {'regions': 'octants', 'vad_range': [1.0, 5.0], 'centre': None}

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    chromium.find() is None, reason='no Chromium on this machine'
  ),
]


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  opened = chromium.Browser(tmp_path_factory.mktemp('chromium'))
  yield opened
  opened.close()


def _report_of_classes(folder):
  speaker = 'session_05_female'
  made = [
    type(p)(**{**vars(p), 'speaker': p.speaker.replace('03', speaker)})
    for p in runs.class_predictions(seeds=(0, 1))
  ]
  runs.write_run(folder / 'w', made)
  return report.write_report(folder / 'w')


def _report_of_vad(folder):
  made = runs.vad_predictions(seeds=(0, 1))
  runs.write_run(folder / 'w', made, system='emosphere', sphere=SPHERE)
  page = report.write_report(folder / 'w')
  assert 'sphere' in page.read_text('utf-8')
  return page


def _comparison(folder):
  chosen = ('last', 'best_on_dev')
  made = runs.class_predictions(seeds=(0, 1), selections=chosen)
  fewer = [p for p in made if not p.id.endswith('a00')]
  names = ('first', 'second_with_a_name_as_long_as_people_give')
  for name, these in zip(names, (made, fewer), strict=True):
    runs.write_run(folder / name, these)
  return pages.write_comparison(
    [folder / name for name in names], folder / 'page.html'
  )


def _table(folder):
  (folder / 'file.py').write_text(paper_table.TABLE)
  with pytest.MonkeyPatch.context() as patch:
    paper_table.pretend(patch)
    file, workdir = folder / 'file.py', folder / 'w'
    assert paper_table.run(file, f'--workdir={workdir}') == 0
  return folder / 'w' / 'table.html'


def _talk(folder, name, **model):
  speech = trained.write_speech(folder, 2)
  run = trained.write_run(folder / 'w', name, speech, folds=1, **model)
  assert models.open(run.workdir).trainings
  page = folder / 'talk.html'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('jaxser.core.runtime.enable_compilation_cache', lambda: None)
    code = predict_program.main(
      [
        f'--checkpoint={run.workdir}',
        '--segment=0.4',
        f'--plot={page}',
        *map(str, speech),
      ]
    )
  assert code == 0
  return page


@pytest.fixture(scope='module', params=KINDS)
def page(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  small = {'channels': (4, 4), 'embedding': 8, 'max_frames': 160}
  make = {
    'classes': _report_of_classes,
    'vad': _report_of_vad,
    'comparison': _comparison,
    'table': _table,
    'talk': lambda folder: _talk(folder, 'dsnet', **small),
    'talk_of_vad': lambda folder: _talk(folder, 'emosphere', width=8),
  }
  return make[request.param](folder)


def test_a_page_fits_is_silent_and_asks_for_nothing(browser, page):
  for dark, paper in (
    (False, False),
    (True, False),
    (False, True),
    (True, True),
  ):
    shown = browser.show(page, dark=dark, paper=paper)
    assert shown.said == []
    assert shown.asked == []
    assert shown.out == []
    assert shown.width <= (chromium.PAPER if paper else chromium.PHONE)[0]
    assert shown.height > 500
    if dark and not paper:
      assert shown.background < 60 < 180 < shown.ink
    else:  # Nobody prints on black.
      assert shown.ink < 60 < 250 < shown.background


def test_what_is_wrong_with_a_page_would_be_seen(browser, tmp_path):
  page = tmp_path / 'page.html'
  text = _report_of_classes(tmp_path).read_text('utf-8')
  # The policy of the page makes any request an error on the console.
  for wrong in (
    '<img src="https://example.org/x.png" alt="" /></body>',
    '<script>1</script></body>',
  ):
    page.write_text(text.replace('</body>', wrong))
    assert browser.show(page).said
  wide = '<pre style="width: 500px">wide</pre></body>'
  page.write_text(text.replace('</body>', wide))
  shown = browser.show(page)
  assert shown.width > chromium.PHONE[0]
  assert shown.out == ['PRE wide']
