"""Find audio files and decode them to one mono waveform, in bounded memory.

libsndfile decodes what it can (any sample rate, any number of channels, which
are averaged) and `ffmpeg`, where it is installed, decodes the rest. Decoders
tend to return what is left of a damaged file without a word; here every way in
which a file can hold less than it claims is an `AudioError`.
"""

import contextlib
import io
import os
import pathlib
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from data_prep.errors import UserError

FFMPEG_SUFFIXES = frozenset(
  {'.3gp', '.aac', '.amr', '.m4a', '.m4b', '.mka', '.mp4', '.webm', '.wma'}
)
SUFFIXES = FFMPEG_SUFFIXES | {
  *('.wav', '.wave', '.flac', '.ogg', '.oga', '.opus', '.mp3', '.aif', '.aiff'),
  *('.aifc', '.au', '.snd', '.caf', '.w64', '.rf64', '.sph', '.nist'),
}
"""Suffixes, in lower case, of the files of a folder that are audio."""

Source = os.PathLike[str] | str | bytes | BinaryIO
Part = Callable[[int, int], tuple[int, int]]

# An MP3 without an index only estimates its length, by up to about two frames.
_MP3_SLACK = 2 * 1152
_BLOCK = 1 << 18
_EXTREMES = (np.minimum, np.maximum)
# Samples of a recording that are kept without asking which are needed.
_WHOLE = 1 << 22
_LARGEST = 0xFFFFFFFF
# Sizes that a writer leaves in the header when it cannot seek back, as into a
# pipe: nothing, or about as much as a signed or an unsigned number can hold.
# SoX and arecord round the largest down to whole frames, less the header.
_UNKNOWN_SIZES = (
  range(1),
  range(0x7FFF0000, 0x80010000),
  range(0xFFFF0000, 0x100000000),
)
# How the files begin that ffmpeg decodes: ADTS and ADIF (AAC), AMR, Matroska
# and WebM, ASF (WMA), MPEG-4 and 3GP.
_FFMPEG_MAGIC = re.compile(
  rb'\xff[\xf0\xf1\xf8\xf9]|ADIF|#!AMR|\x1aE\xdf\xa3|0&\xb2u|.{4}ftyp',
  re.DOTALL,
)


class AudioError(UserError):
  """An audio file cannot be used; the message says which, why, what to do."""


class Recording(NamedTuple):
  """A recording, or the part of it that was needed."""

  waveform: np.ndarray  # float32 `[samples of the part]`, full scale 1.
  rate: int  # Hz.
  start: int = 0  # The recording's sample with which the waveform begins.
  # Of the whole recording; from `read_blocks`, those read so far.
  samples: int = 0
  warning: str = ''  # A harmless fault of the file, in one sentence.

  @property
  def seconds(self) -> float:
    """Returns the duration of the whole recording."""
    return self.samples / self.rate


def find_recordings(
  path: os.PathLike[str] | str, suffixes: Collection[str] = SUFFIXES
) -> list[pathlib.Path]:
  """Returns the audio files in a folder and all folders below it, sorted.

  Links are followed, every folder is visited once. What archives made on a Mac
  hold beside the audio (`._NAME.wav`, `__MACOSX`) and other hidden files and
  folders are left out.
  """
  found, seen = [], set()
  if not os.path.isdir(path):
    return [pathlib.Path(path)]
  for parent, folders, names in os.walk(path, followlinks=True):
    real = os.path.realpath(parent)
    if real in seen:  # A link that leads back up, or to a folder seen before.
      folders.clear()
      continue
    seen.add(real)
    folders[:] = [f for f in folders if not f.startswith(('.', '__MACOSX'))]
    found += [
      pathlib.Path(parent, name)
      for name in names
      if not name.startswith('.')
      and os.path.splitext(name)[1].lower() in suffixes
    ]
  return sorted(p for p in found if p.is_file())


def read(
  source: Source, *, part: Part | None = None, name: str | None = None
) -> Recording:
  """Decodes one recording, or the part of it that is needed.

  With `part`, memory does not depend on the length of the recording: a long one
  is decoded in blocks, checked as a whole, and decoded a second time for the
  part. One of up to 4,194,304 samples is returned whole all the same.

  Args:
    source: a path, the bytes of a file, or an open binary file (read to its
      end, so that a pipe will do).
    part: `part(samples, rate)` returns the first sample that is needed and the
      first that is no longer, as `features.Convention.part` does; `first(2.5)`
      is the beginning.
    name: what errors call it; by default the path.

  Raises:
    AudioError: if the file is missing, empty, not audio, cut off, or holds no
      samples or samples that are not finite; or needs ffmpeg, which is not
      installed.
  """
  with _opened(source, name) as decoder:
    blocks, samples = [], 0
    for block in decoder.blocks():
      samples += len(block)
      blocks.append(block)
      if part and samples > _WHOLE:
        blocks.clear()
    start, stop = 0, samples
    if part and samples > _WHOLE:
      start, stop = part(samples, decoder.rate)
      # Seeking would be faster, but not every format seeks to the very sample.
      count = 0
      for block in decoder.blocks():
        if count + len(block) > start:
          blocks.append(block[max(0, start - count) : stop - count])
        count += len(block)
        if count >= stop:
          break
    waveform = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    return Recording(waveform, decoder.rate, start, samples, decoder.warning)


def first(seconds: float) -> Part:
  """Returns the `part` of `read` that is the beginning of a recording."""
  return lambda samples, rate: (0, min(samples, max(1, round(seconds * rate))))


def envelope(source: Source, points: int = 800) -> np.ndarray:
  """Returns the lowest and highest sample of equal parts, float32 [points, 2].

  Of the recording a 32nd is held at a time; see `read` for errors.
  """
  with _opened(source, None) as decoder:
    ends = [
      [f.reduceat(block, range(0, len(block), 64)) for f in _EXTREMES]
      for block in decoder.blocks()
    ]
  lows, highs = np.concatenate(ends, axis=1)
  starts = np.linspace(0, len(lows), min(points, len(lows)), endpoint=False)
  low, high = (
    f.reduceat(x, starts.astype(int))
    for f, x in zip(_EXTREMES, (lows, highs), strict=True)
  )
  return np.stack([low, high], axis=1)


def read_blocks(
  source: Source, seconds: float, *, name: str | None = None
) -> Iterator[Recording]:
  """Yields a recording as segments of equal length, in constant memory.

  They follow each other without gap or overlap, except that the last one ends
  with the recording and so overlaps its predecessor. A recording that is not
  longer than a segment is yielded whole.
  """
  with _opened(source, name) as decoder:
    size = max(1, round(seconds * decoder.rate))
    held, origin, following, total = np.zeros(0, np.float32), 0, 0, 0

    def segment(start, stop):
      waveform = held[start - origin : stop - origin]
      return Recording(waveform, decoder.rate, start, total, decoder.warning)

    for block in decoder.blocks():
      held, total = np.concatenate([held, block]), total + len(block)
      while following + size < total:
        yield segment(following, following + size)
        following += size
      drop = max(0, min(following, total - size) - origin)
      held, origin = held[drop:], origin + drop
    yield segment(max(0, total - size), total)


@contextlib.contextmanager
def _opened(source: Source, name: str | None) -> Iterator['_Decoder']:
  """Opens a recording; the decoder's errors become one that names it."""
  import soundfile  # Only here, so that help and messages come at once.

  with contextlib.ExitStack() as stack:
    path, file = None, None
    if isinstance(source, bytes | bytearray | memoryview):
      name = name or '<bytes>'
      file = io.BytesIO(source)
    elif hasattr(source, 'read'):
      name = name or str(getattr(source, 'name', '<stream>'))
      file = stack.enter_context(_spooled(source))
    else:
      path = pathlib.Path(source)
      name = name or str(path)
      file = stack.enter_context(_open(path, name))
    file = _File(file)
    if not file.size:
      raise AudioError(
        f'{name}: the file is empty (0 bytes); copy or record it again.'
      )
    if _needs_ffmpeg(file, name):
      file = _File(stack.enter_context(_through_ffmpeg(path, file, name)))
    warning = _check_whole(file, name)
    try:
      yield _Decoder(file, name, warning)
    except soundfile.SoundFileError as error:
      # What the decoder says, without the name of our buffer.
      reason = str(error).rsplit('>: ', 1)[-1].rstrip('.')
      raise AudioError(
        f'{name}: not readable as audio; the file begins with '
        f'{file.at(0, 12)!r} and the decoder says "{reason}"; replace it or '
        'convert it to WAV.'
      ) from error


def _spooled(source: BinaryIO) -> BinaryIO:
  copy = tempfile.SpooledTemporaryFile(1 << 25)  # noqa: SIM115
  shutil.copyfileobj(source, copy)
  return copy


def _open(path: pathlib.Path, name: str) -> BinaryIO:
  try:
    return open(path, 'rb')
  except FileNotFoundError as error:
    raise AudioError(
      f'{name}: no such file; check the path and its folder.'
    ) from error
  except OSError as error:
    raise AudioError(
      f'{name}: cannot be read ({error.strerror}); it must be a readable file.'
    ) from error


class _File:
  """A binary file, with another header if need be, whose seeks never raise.

  Decoders probe a damaged file at negative offsets from inside a C callback,
  where Python can only print an exception instead of raising it.
  """

  def __init__(self, file: BinaryIO):
    self._file = file
    self.header = b''  # What readers see in place of the first bytes.
    self.size = file.seek(0, io.SEEK_END)
    file.seek(0)

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self.size}
    return self._file.seek(max(0, base[whence] + offset))

  def tell(self) -> int:
    return self._file.tell()

  def read(self, size: int = -1) -> bytes:
    start, data = self.tell(), self._file.read(size)
    replaced = self.header[start : start + len(data)]
    return replaced + data[len(replaced) :]

  def at(self, position: int, size: int) -> bytes:
    """Returns the bytes from a position on, fewer at the end of the file."""
    self.seek(position)
    return self.read(size)

  def chunks(
    self, order: str, position: int
  ) -> Iterator[tuple[bytes, int, int]]:
    """Yields (name, size, start) of the chunks of a RIFF or IFF file."""
    while len(head := self.at(position, 8)) == 8:
      kind, size = struct.unpack(f'{order}4sI', head)
      yield kind, size, position + 8
      position += 8 + size + size % 2


class _Decoder:
  """A file that libsndfile reads.

  Attributes:
    rate: sample rate, Hz.
    warning: see `Recording`.
  """

  def __init__(self, file: _File, name: str, warning: str):
    self._file, self._name, self.warning = file, name, warning
    with self._sound() as sound:
      self.rate = sound.samplerate

  def _sound(self):
    import soundfile

    self._file.seek(0)
    return soundfile.SoundFile(self._file)

  def blocks(self) -> Iterator[np.ndarray]:
    """Yields the mono waveform in blocks; at its end checks the whole."""
    count, bad, first_bad = 0, 0, ''
    with self._sound() as sound:
      while len(block := sound.read(_BLOCK, dtype='float32', always_2d=True)):
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
          at = int(np.argmin(finite))
          value = float(block[at][~np.isfinite(block[at])][0])
          first_bad = first_bad or f'{value} at sample {count + at}'
          bad += int((~finite).sum())
        count += len(block)
        if block.shape[1] == 1:
          yield block[:, 0]
        else:
          yield block.mean(axis=1, dtype=np.float64).astype(np.float32)
      promised, kind = sound.frames, sound.format
    slack = _MP3_SLACK if kind in ('MP3', 'MPEG') else 0
    if count + slack < promised:
      raise AudioError(
        f'{self._name}: truncated; the header promises {promised} frames, '
        f'{count} could be decoded; copy the file again.'
      )
    if not count:
      raise AudioError(
        f'{self._name}: zero-length audio (a valid header and 0 samples at '
        f'{self.rate} Hz); copy or record it again, or leave it out.'
      )
    if bad:
      raise AudioError(
        f'{self._name}: {bad} of {count} samples are not finite, the first is '
        f'{first_bad}; repair or replace it.'
      )


def _needs_ffmpeg(file: _File, name: str) -> bool:
  head = file.at(0, 12)
  if head[:4] in _LAYOUTS:
    return False
  suffix = os.path.splitext(name)[1].lower()
  return suffix in FFMPEG_SUFFIXES or bool(_FFMPEG_MAGIC.match(head))


def _through_ffmpeg(
  path: pathlib.Path | None, file: _File, name: str
) -> BinaryIO:
  """Has ffmpeg decode the file into a temporary WAV."""
  program = shutil.which('ffmpeg')
  if not program:
    raise AudioError(
      f'{name}: this format is decoded by ffmpeg, which is not installed; '
      'install it (ffmpeg.org), or convert the file to WAV.'
    )
  # Many of these formats can only be decoded with seeks: not from a pipe.
  with tempfile.NamedTemporaryFile() as copy:
    if path is None:
      file.seek(0)
      shutil.copyfileobj(file, copy)
      copy.flush()
    # With file: a name is never taken for an option or a protocol.
    options = ['-nostdin', '-v', 'error', '-xerror']
    options += ['-i', f'file:{path or copy.name}', '-vn']
    options += ['-c:a', 'pcm_f32le', '-f', 'wav', 'pipe:1']
    output = tempfile.TemporaryFile()  # noqa: SIM115
    done = subprocess.run(
      [program, *options],
      stdin=subprocess.DEVNULL,
      stdout=output,
      stderr=subprocess.PIPE,
      check=False,
    )
  if done.returncode or not output.tell():
    output.close()
    said = done.stderr.decode(errors='replace').strip().splitlines() or ['']
    raise AudioError(
      f'{name}: not readable as audio; ffmpeg ended with exit status '
      f'{done.returncode} and says "{said[-1]}"; replace it or convert it to '
      'WAV.'
    )
  return output


def _check_whole(file: _File, name: str) -> str:
  """Compares the bytes of audio that a header promises with those there."""
  kind = file.at(0, 4)
  if kind not in _LAYOUTS:
    return ''
  layout = _LAYOUTS[kind](file)
  if layout is None:
    raise AudioError(
      f'{name}: truncated header; the file says that it is {kind.decode()!r} '
      f'and ends after {file.size} bytes, before its audio; copy it again.'
    )
  promised, start = layout
  present = file.size - start
  # Some recorders count the header as audio: all of it, what RIFF counts, or
  # the chunk's own.
  excess = promised - present
  if excess > 0 and excess in (start, start - 8, 8) and present:
    if kind in (b'RIFF', b'RIFX'):
      _set_wav_size(file, start, '>' if kind == b'RIFX' else '<')
    return (
      f'the header promises {promised} bytes of audio, as it counts itself; '
      f'all {present} that are there were read'
    )
  if excess > 0:
    raise AudioError(
      f'{name}: truncated; the header promises {promised} bytes of audio, '
      f'the file holds {present}; copy it again.'
    )
  return ''


def _riff(file: _File) -> tuple[int, int] | None:
  """Returns the promised bytes of a WAV's audio and where it starts."""
  kind = file.at(0, 4)
  order = '>' if kind == b'RIFX' else '<'
  wide = None  # RF64 keeps the real size in a chunk of its own.
  for name, size, start in file.chunks(order, 12):
    if name == b'ds64' and len(field := file.at(start + 8, 8)) == 8:
      (wide,) = struct.unpack('<Q', field)
    if name != b'data':
      continue
    if kind == b'RF64':
      return (wide if size == _LARGEST and wide is not None else size), start
    present = file.size - start
    unknown = _unknown(size) and not 0 < size < present
    if unknown and not (size == 0 and _only_chunks(file, start, order)):
      # Decoders believe a size of 0, and some others too.
      _set_wav_size(file, start, order)
      return present, start
    return size, start
  return None


def _set_wav_size(file: _File, start: int, order: str) -> None:
  """Puts the sizes that the file has into its header."""
  header = bytearray(file.at(0, start))
  for position, size in ((start - 4, file.size - start), (4, file.size - 8)):
    struct.pack_into(f'{order}I', header, position, min(size, _LARGEST))
  file.header = bytes(header)


def _unknown(size: int) -> bool:
  return any(size in sizes for sizes in _UNKNOWN_SIZES)


def _only_chunks(file: _File, position: int, order: str) -> bool:
  """Returns whether chunks, and no samples, make up the rest of the file."""
  for name, size, start in file.chunks(order, position):
    if not name.decode('latin-1').isprintable():
      return False
    position = start + size + size % 2
  # The last byte that makes a chunk even is often left out.
  return position in (file.size, file.size + 1)


def _aiff(file: _File) -> tuple[int, int] | None:
  """Returns the promised bytes of an AIFF's audio and where it starts."""
  for kind, size, start in file.chunks('>', 12):
    if kind == b'SSND':
      return size, start
  return None


def _au(file: _File) -> tuple[int, int] | None:
  """Returns the promised bytes of Sun audio and where they start."""
  if file.size < 24:
    return None
  start, size = struct.unpack('>II', file.at(4, 8))
  return (file.size - start if _unknown(size) else size), start


def _sphere(file: _File) -> tuple[int, int] | None:
  """Returns the promised bytes of NIST SPHERE, often named .wav too."""
  size = re.match(rb'NIST_1A\n\s*(\d+)\n', file.at(0, 1024))
  if not size or file.size < int(size[1]):
    return None
  header = file.at(0, int(size[1]))
  promised = 1
  for field in (b'sample_count', b'channel_count', b'sample_n_bytes'):
    found = re.search(rb'^' + field + rb' -i (\d+)', header, re.MULTILINE)
    if not found:
      return None
    promised *= int(found[1])
  if re.search(rb'^sample_coding -s\d+ .*shorten', header, re.MULTILINE):
    promised = 0  # Compressed: the number of bytes cannot be foreseen.
  return promised, len(header)


def _ogg(file: _File) -> tuple[int, int] | None:
  """Returns the promised bytes of Ogg, whose last page is marked as such."""
  tail = max(0, file.size - (1 << 17))  # A page has at most 65,307 bytes.
  data = file.at(tail, 1 << 17)
  page = max(0, data.rfind(b'OggS'))
  if len(data) < page + 27 or len(data) < page + 27 + data[page + 26]:
    return None
  segments = data[page + 27 : page + 27 + data[page + 26]]
  end = tail + page + 27 + len(segments) + sum(segments)
  last = bool(data[page + 5] & 4)
  # Without its last page the stream lacks at least one more page header.
  return (end if last else end + 27), 0


_LAYOUTS = {
  b'RIFF': _riff,
  b'RIFX': _riff,
  b'RF64': _riff,
  b'FORM': _aiff,
  b'.snd': _au,
  b'NIST': _sphere,
  b'OggS': _ogg,
}
