"""Chromium without a window, in which tests look at pages."""

import html
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import types

WIDTHS = {'light': 390, 'dark': 390, 'paper': 718}
"""Of a phone, and of A4 less a centimetre on each side at 96 dots an inch."""
# What a style sheet asks for, and what is put there so that it gets it. Paper
# is seen by a reader who prefers dark pages.
_DARK = {'(prefers-color-scheme: dark)': '(min-width: 0)'}
_PAPER = {'@media print': '@media all', '@media screen': '@media none'}
_CHANGES = {'light': {}, 'dark': _DARK, 'paper': _DARK | _PAPER}
_FLAGS = (
  *('--headless', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr'),
  *('--disable-background-networking', '--host-resolver-rules=MAP * ~NOTFOUND'),
  *('--dump-dom', '--hide-scrollbars', '--virtual-time-budget=5000'),
)
# Elements that stick out of the page, unless something around them scrolls.
_MEASURE = """
const frame = document.querySelector('iframe');
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  const of = e => frame.contentWindow.getComputedStyle(e);
  const scrolls = e => e && (
    of(e).overflowX !== 'visible' || scrolls(e.parentElement));
  const name = e => `${e.tagName} ${e.textContent.trim().slice(0, 30)}`;
  const sticks = box => box.width && (box.right > WIDTH + 1 || box.left < -1);
  const out = [...page.body.querySelectorAll('*')].filter(e =>
    sticks(e.getBoundingClientRect()) && !scrolls(e.parentElement));
  const light = c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3;
  document.body.textContent = JSON.stringify({
    width: root.scrollWidth, height: root.scrollHeight,
    background: light(of(page.body).backgroundColor),
    ink: light(of(page.body).color), out: out.map(name).slice(0, 5)});
};
frame.srcdoc = PAGE;
"""


def find() -> str | None:
  """Returns the program, None if there is none."""
  names = ('chromium', 'google-chrome', 'chrome')
  return next(filter(None, map(shutil.which, names)), None)


def show(page: pathlib.Path, medium: str) -> types.SimpleNamespace:
  """Opens a page as on a phone, 'light' or 'dark', or as on 'paper'.

  Returns:
    `said` on the console, where the policy of a page reports what it asks for;
    `width` and `height` of the page; `out`, elements wider than it; brightness
    of `background` and `ink`, 0 to 255.
  """
  text, width = page.read_text('utf-8'), str(WIDTHS[medium])
  for asked, given in _CHANGES[medium].items():
    text = text.replace(asked, given)
  text = json.dumps(text).replace('</', '<\\/')
  script = _MEASURE.replace('WIDTH', width).replace('PAGE', text)
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    outer = pathlib.Path(folder, 'outer.html')
    outer.write_text(
      '<!DOCTYPE html><meta charset="utf-8"><body>'
      f'<iframe style="width: {width}px; height: 844px; border: 0"></iframe>'
      f'<script>{script}</script>'
    )
    done = subprocess.run(
      [find(), *_FLAGS, f'--user-data-dir={folder}', outer.as_uri()],
      **{'capture_output': True, 'text': True, 'timeout': 300, 'check': True},
    )
  measured = re.search(r'<body>(\{.*\})', done.stdout)
  assert measured, done.stderr
  said = re.findall('CONSOLE.*', done.stderr)
  return types.SimpleNamespace(
    said=said, **json.loads(html.unescape(measured[1]))
  )
