"""One Chromium without a window, that tests show pages to, over a pipe."""

import json
import os
import pathlib
import select
import shutil
import subprocess
import types
from typing import Any

PHONE = (390, 844)
PAPER = (718, 1046)  # A4 less a centimetre on each side, at 96 dots an inch.
_PATIENCE = 120.0  # Seconds; a busy machine starts a browser slowly.
_FLAGS = (
  *('--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe'),
  *('--disable-background-networking', '--host-resolver-rules=MAP * ~NOTFOUND'),
)
# Elements that stick out of the page, unless something around them scrolls.
_MEASURE = """
(() => {
  const root = document.documentElement, style = getComputedStyle(document.body);
  const scrolls = e => e && (
    getComputedStyle(e).overflowX !== 'visible' || scrolls(e.parentElement));
  const name = e => `${e.tagName} ${e.textContent.trim().slice(0, 30)}`;
  const sticks = box => box.width && (box.right > WIDTH + 1 || box.left < -1);
  const out = [...document.body.querySelectorAll('*')].filter(e =>
    sticks(e.getBoundingClientRect()) && !scrolls(e.parentElement));
  const light = c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3;
  return JSON.stringify({
    width: root.scrollWidth, height: root.scrollHeight,
    background: light(style.backgroundColor), ink: light(style.color),
    out: out.map(e => name(e)).slice(0, 5)});
})()
"""


def find() -> str | None:
  """Returns the program, None if there is none."""
  names = ('chromium', 'google-chrome', 'chrome')
  return next(filter(None, map(shutil.which, names)), None)


class Browser:
  """A browser process, to be closed; pages are shown one after the other."""

  def __init__(self, folder: pathlib.Path):
    """Starts the browser, with its profile in `folder`."""
    to_read, self._in = os.pipe()
    self._out, to_write = os.pipe()
    command = [find(), *_FLAGS, f'--user-data-dir={folder}/profile']
    # It reads from descriptor 3 and writes to 4.
    pipes = f'exec "$@" 3<&{to_read} 4>&{to_write}'
    with open(folder / 'log', 'wb') as log:
      self._process = subprocess.Popen(
        ['bash', '-c', pipes, 'bash', *command],
        pass_fds=(to_read, to_write),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, 'HOME': str(folder)},
      )
    os.close(to_read)
    os.close(to_write)
    self._rest, self._count, self._session = b'', 0, None
    self._events: list[dict[str, Any]] = []
    target = self._call('Target.createTarget', url='about:blank')['targetId']
    self._session = self._call(
      'Target.attachToTarget', targetId=target, flatten=True
    )['sessionId']
    for domain in ('Page', 'Network', 'Log', 'Runtime'):
      self._call(f'{domain}.enable')

  def close(self) -> None:
    """Ends the browser."""
    os.close(self._in)  # Which it takes as a wish to end.
    try:
      self._process.wait(20)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    os.close(self._out)

  def show(
    self, page: pathlib.Path, *, dark: bool = False, paper: bool = False
  ) -> types.SimpleNamespace:
    """Opens a page as on a phone, light or dark, or as it is printed.

    Returns:
      `said` on the console, `asked` addresses, `width` and `height` of the page,
      `out`, elements wider than it, brightness of `background` and `ink`, 0 to
      255.
    """
    width, height = PAPER if paper else PHONE
    size = {'width': width, 'height': height, 'deviceScaleFactor': 1}
    self._call('Emulation.setDeviceMetricsOverride', **size, mobile=not paper)
    scheme = {
      'name': 'prefers-color-scheme',
      'value': 'dark' if dark else 'light',
    }
    media = 'print' if paper else 'screen'
    self._call('Emulation.setEmulatedMedia', media=media, features=[scheme])
    for url in ('about:blank', page.as_uri()):
      # What an earlier page still said is not of this one.
      self._events.clear()
      self._call('Page.navigate', url=url)
      while not self._named('Page.loadEventFired'):
        self._receive()
    script = _MEASURE.replace('WIDTH', str(width))
    found = self._call('Runtime.evaluate', expression=script)
    urls = [
      e['request']['url'] for e in self._named('Network.requestWillBeSent')
    ]
    said = (
      'Log.entryAdded',
      'Runtime.consoleAPICalled',
      'Runtime.exceptionThrown',
    )
    return types.SimpleNamespace(
      said=[str(event) for name in said for event in self._named(name)],
      asked=[
        url for url in urls if not url.startswith((page.as_uri(), 'data:'))
      ],
      **json.loads(found['result']['value']),
    )

  def _named(self, method: str) -> list[dict[str, Any]]:
    return [e['params'] for e in self._events if e['method'] == method]

  def _call(self, method: str, **params: Any) -> dict[str, Any]:
    self._count += 1
    message = {'id': self._count, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._in, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._receive()
      if answer.get('id') == self._count:
        assert 'error' not in answer, (method, answer)
        return answer['result']

  def _receive(self) -> dict[str, Any]:
    """The next message; events are kept."""
    while b'\0' not in self._rest:
      ready, _, _ = select.select([self._out], [], [], _PATIENCE)
      read = os.read(self._out, 1 << 20) if ready else b''
      assert read, 'Chromium does not answer'
      self._rest += read
    line, _, self._rest = self._rest.partition(b'\0')
    message = json.loads(line)
    if 'method' in message:
      self._events.append(message)
    return message
