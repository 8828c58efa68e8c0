"""One Chromium without a window, that tests show pages to, over a pipe."""

import dataclasses
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from typing import Any

PHONE = (390, 844)
PAPER = (718, 1046)  # A4 less a centimetre on each side, at 96 dots an inch.
_PATIENCE = 120.0  # Seconds; a busy machine starts a browser slowly.

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
  return JSON.stringify({
    width: root.scrollWidth, height: root.scrollHeight,
    background: style.backgroundColor, ink: style.color,
    out: out.map(e => name(e)).slice(0, 5)});
})()
"""


def find() -> str | None:
  """The program, None if there is none."""
  names = ('chromium', 'google-chrome', 'chrome')
  return next(filter(None, map(shutil.which, names)), None)


@dataclasses.dataclass(frozen=True)
class Shown:
  """What came of showing a page.

  Attributes:
    said: errors and warnings on the console.
    asked: addresses that were requested besides the page's own.
    width, height: of the page, pixels.
    out: elements that are wider than the screen or paper.
    background, ink: brightness of the body's colours, 0 to 255.
  """

  said: list[str]
  asked: list[str]
  width: int
  height: int
  out: list[str]
  background: float
  ink: float


class Browser:
  """A browser process, to be closed; pages are shown one after the other."""

  def __init__(self, folder: pathlib.Path):
    """Starts the browser, with its profile in `folder`."""
    theirs_in, self._in = os.pipe()
    self._out, theirs_out = os.pipe()
    command = [
      find(),
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-background-networking',
      '--host-resolver-rules=MAP * ~NOTFOUND',
      f'--user-data-dir={folder}/profile',
      '--remote-debugging-pipe',
    ]
    # It reads from descriptor 3 and writes to 4.
    pipes = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    with open(folder / 'log', 'wb') as log:
      self._process = subprocess.Popen(
        ['bash', '-c', pipes, 'bash', *command],
        pass_fds=(theirs_in, theirs_out),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, 'HOME': str(folder)},
      )
    os.close(theirs_in)
    os.close(theirs_out)
    self._rest, self._count, self._session = b'', 0, None
    self._events: list[dict[str, Any]] = []
    target = self._call('Target.createTarget', url='about:blank')['targetId']
    attached = self._call(
      'Target.attachToTarget', targetId=target, flatten=True
    )
    self._session = attached['sessionId']
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
    self,
    page: pathlib.Path,
    *,
    dark: bool = False,
    paper: bool = False,
  ) -> Shown:
    """Opens a page as on a phone, light or dark, or as it is printed."""
    width, height = PAPER if paper else PHONE
    self._call(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=not paper,
    )
    scheme = 'dark' if dark else 'light'
    self._call(
      'Emulation.setEmulatedMedia',
      media='print' if paper else 'screen',
      features=[{'name': 'prefers-color-scheme', 'value': scheme}],
    )
    # What an earlier page still said is not of this one.
    self._open('about:blank')
    self._open(page.as_uri())
    script = _MEASURE.replace('WIDTH', str(width))
    found = self._call('Runtime.evaluate', expression=script)
    measured = json.loads(found['result']['value'])
    asked = [
      event['request']['url']
      for event in self._named('Network.requestWillBeSent')
    ]
    return Shown(
      said=[
        *(event['entry']['text'] for event in self._named('Log.entryAdded')),
        *map(str, self._named('Runtime.consoleAPICalled')),
        *map(str, self._named('Runtime.exceptionThrown')),
      ],
      asked=[
        url for url in asked if not url.startswith((page.as_uri(), 'data:'))
      ],
      width=measured['width'],
      height=measured['height'],
      out=measured['out'],
      background=_brightness(measured['background']),
      ink=_brightness(measured['ink']),
    )

  def _open(self, url: str) -> None:
    self._events.clear()
    self._call('Page.navigate', url=url)
    while not self._named('Page.loadEventFired'):
      self._receive()

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
    until = time.monotonic() + _PATIENCE
    while b'\0' not in self._rest:
      left = until - time.monotonic()
      ready, _, _ = select.select([self._out], [], [], max(0, left))
      read = os.read(self._out, 1 << 20) if ready else b''
      assert read, 'Chromium does not answer'
      self._rest += read
    text, _, self._rest = self._rest.partition(b'\0')
    message = json.loads(text)
    if 'method' in message:
      self._events.append(message)
    return message


def _brightness(colour: str) -> float:
  """Of 'rgb(1, 2, 3)'."""
  numbers = colour.partition('(')[2].rstrip(')').split(',')
  return sum(float(x) for x in numbers[:3]) / 3
