"""Decoding audio to one mono waveform, or an error that says what is wrong.

Anything that libsndfile reads is accepted: any sample rate, any number of
channels (averaged). Decoders tend to return what is left of a damaged file
without a word; here every way in which a file can be less than it claims is an
`AudioError`.
"""

import io
import os
import pathlib
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

from data_prep.errors import UserError

# An MP3 without an index only estimates its length, by up to about two frames.
_MP3_SLACK = 2 * 1152
_BLOCK = 1 << 20
_LARGEST = 0xFFFFFFFF
# Sizes that a writer leaves in the header when it cannot seek back, as into a
# pipe: nothing, or about as much as a signed or an unsigned number can hold.
# SoX and arecord round the largest down to whole frames, less the header.
_UNKNOWN_SIZES = (
  range(1),
  range(0x7FFF0000, 0x80010000),
  range(0xFFFF0000, 0x100000000),
)


class AudioError(UserError):
  """An audio file cannot be used; the message says which, why, what to do."""


def decode(
  source: os.PathLike[str] | str | bytes | BinaryIO,
  *,
  name: str | None = None,
) -> tuple[np.ndarray, int]:
  """Decodes one file to mono.

  Args:
    source: a path, the bytes of a file, or an open binary file (read to its
      end, so that a pipe will do).
    name: what errors call it; by default the path.

  Returns:
    The waveform, float32 `[samples]`, full scale = 1, channels averaged; and
    the sample rate in Hz.

  Raises:
    AudioError: if the file is missing, empty, not audio, cut off, or holds no
      samples or samples that are not finite.
  """
  data, name = _read(source, name)
  if not data:
    raise AudioError(
      f'{name}: the file is empty (0 bytes); copy or record it again.'
    )
  data = _with_size(data)
  _check_whole(data, name)
  try:
    with soundfile.SoundFile(_Buffer(data)) as file:
      channels = _read_frames(file)
      promised, rate, kind = file.frames, file.samplerate, file.format
  except (soundfile.SoundFileError, TypeError) as error:
    # soundfile raises TypeError for headerless data, which it cannot guess.
    raise AudioError(
      f'{name}: not readable as audio; the file begins with {data[:12]!r} and '
      f'the decoder says "{_reason(error)}"; replace it or convert it to WAV.'
    ) from error
  slack = _MP3_SLACK if kind in ('MP3', 'MPEG') else 0
  if len(channels) + slack < promised:
    raise AudioError(
      f'{name}: truncated; the header promises {promised} frames, '
      f'{len(channels)} could be decoded; copy the file again.'
    )
  if not len(channels):
    raise AudioError(
      f'{name}: zero-length audio (a valid header and 0 samples at {rate} Hz); '
      'copy or record it again, or leave it out.'
    )
  finite = np.isfinite(channels).all(axis=1)
  if not finite.all():
    bad = int(np.argmin(finite))
    count = int((~finite).sum())
    raise AudioError(
      f'{name}: {count} of {len(channels)} samples are not finite, the first '
      f'is {_first_bad(channels[bad])} at sample {bad}; repair or replace it.'
    )
  if channels.shape[1] == 1:
    return channels[:, 0], rate
  return channels.mean(axis=1, dtype=np.float64).astype(np.float32), rate


class _Buffer(io.BytesIO):
  """Bytes as a file whose seeks never raise.

  Decoders probe a damaged file at negative offsets from inside a C callback,
  where Python can only print an exception instead of raising it.
  """

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell()}.get(whence)
    if base is None:
      base = self.getbuffer().nbytes
    return super().seek(max(0, base + offset))


def _read(source, name: str | None) -> tuple[bytes, str]:
  """All bytes of the source, and what to call it."""
  if isinstance(source, bytes | bytearray | memoryview):
    return bytes(source), name or '<bytes>'
  if hasattr(source, 'read'):
    return source.read(), name or str(getattr(source, 'name', '<stream>'))
  path = pathlib.Path(source)
  name = name or str(path)
  try:
    return path.read_bytes(), name
  except FileNotFoundError as error:
    raise AudioError(
      f'{name}: no such file; check the path and its folder.'
    ) from error
  except OSError as error:
    raise AudioError(
      f'{name}: cannot be read ({error.strerror}); it must be a readable file.'
    ) from error


def _read_frames(file: soundfile.SoundFile) -> np.ndarray:
  """All frames [frames, channels], in blocks: a header may promise terabytes."""
  blocks = []
  while True:
    block = file.read(_BLOCK, dtype='float32', always_2d=True)
    blocks.append(block)
    if len(block) < _BLOCK:
      return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _reason(error: Exception) -> str:
  """What the decoder says, without the name of our buffer."""
  return str(error).rsplit('>: ', 1)[-1].rstrip('.')


def _first_bad(frame: np.ndarray) -> float:
  return float(frame[~np.isfinite(frame)][0])


def _check_whole(data: bytes, name: str) -> None:
  """Raises AudioError if a header promises more bytes than there are."""
  kind = data[:4]
  if kind in _LAYOUTS:
    missing = _LAYOUTS[kind](data)
    if missing is None:
      raise AudioError(
        f'{name}: truncated header; the file says that it is '
        f'{kind.decode()!r} and ends after {len(data)} bytes, before its '
        'audio; copy it again.'
      )
    promised, present = missing
    if promised > present:
      raise AudioError(
        f'{name}: truncated; the header promises {promised} bytes of audio, '
        f'the file holds {present}; copy it again.'
      )


def _riff(data: bytes) -> tuple[int, int] | None:
  """(promised, present) bytes of a WAV's data chunk; None if it has none."""
  order = '>' if data[:4] == b'RIFX' else '<'
  wide = None  # RF64 keeps the real size in a chunk of its own.
  for kind, size, start in _chunks(data, order):
    if kind == b'ds64' and len(data) >= start + 16:
      (wide,) = struct.unpack_from('<Q', data, start + 8)
    if kind == b'data':
      if wide is not None and size == 0xFFFFFFFF:
        size = wide
      return size, len(data) - start
  return None


def _with_size(data: bytes) -> bytes:
  """A WAV whose writer could not know its size, with the size that it has.

  Decoders believe a size of 0, and some others too.
  """
  if data[:4] not in (b'RIFF', b'RIFX'):
    return data
  order = '>' if data[:4] == b'RIFX' else '<'
  audio = (c for c in _chunks(data, order) if c[0] == b'data')
  _, size, start = next(audio, (b'', 1, 0))
  present = len(data) - start
  if not _unknown(size) or 0 < size < present:
    return data
  if size == 0 and _only_chunks(data, start, order):
    return data
  fixed = bytearray(data)
  struct.pack_into(f'{order}I', fixed, start - 4, min(present, _LARGEST))
  struct.pack_into(f'{order}I', fixed, 4, min(len(data) - 8, _LARGEST))
  return bytes(fixed)


def _unknown(size: int) -> bool:
  return any(size in sizes for sizes in _UNKNOWN_SIZES)


def _only_chunks(data: bytes, position: int, order: str) -> bool:
  """Whether chunks, and no samples, make up the file from here to its end."""
  while position + 8 <= len(data):
    name, size = struct.unpack_from(f'{order}4sI', data, position)
    if not name.decode('latin-1').isprintable():
      return False
    position += 8 + size + size % 2
  # The last byte that makes a chunk even is often left out.
  return position in (len(data), len(data) + 1)


def _aiff(data: bytes) -> tuple[int, int] | None:
  """(promised, present) bytes of an AIFF's sound chunk; None if it has none."""
  for kind, size, start in _chunks(data, '>'):
    if kind == b'SSND':
      return size, len(data) - start
  return None


def _chunks(data: bytes, order: str) -> Iterator[tuple[bytes, int, int]]:
  """(name, size, start) of the chunks of a RIFF or IFF file."""
  position = 12
  while position + 8 <= len(data):
    kind, size = struct.unpack_from(f'{order}4sI', data, position)
    yield kind, size, position + 8
    position += 8 + size + size % 2


def _au(data: bytes) -> tuple[int, int] | None:
  """(promised, present) bytes of Sun audio."""
  if len(data) < 24:
    return None
  start, size = struct.unpack_from('>II', data, 4)
  present = len(data) - start
  return (present if _unknown(size) else size), present


def _sphere(data: bytes) -> tuple[int, int] | None:
  """(promised, present) bytes of NIST SPHERE, often named .wav too."""
  start = re.match(rb'NIST_1A\n\s*(\d+)\n', data)
  if not start or len(data) < int(start[1]):
    return None
  header = data[: int(start[1])]
  promised = 1
  for field in (b'sample_count', b'channel_count', b'sample_n_bytes'):
    found = re.search(rb'^' + field + rb' -i (\d+)', header, re.MULTILINE)
    if not found:
      return None
    promised *= int(found[1])
  if re.search(rb'^sample_coding -s\d+ .*shorten', header, re.MULTILINE):
    return 0, 0  # Compressed: the number of bytes cannot be foreseen.
  return promised, len(data) - len(header)


def _ogg(data: bytes) -> tuple[int, int] | None:
  """(promised, present) bytes of Ogg, whose last page is marked as such."""
  page = data.rfind(b'OggS')
  if len(data) < page + 27 or len(data) < page + 27 + data[page + 26]:
    return None
  segments = data[page + 27 : page + 27 + data[page + 26]]
  end = page + 27 + len(segments) + sum(segments)
  last = bool(data[page + 5] & 4)
  # Without its last page the stream lacks at least one more page header.
  return (end if last else end + 27), len(data)


_LAYOUTS = {
  b'RIFF': _riff,
  b'RIFX': _riff,
  b'RF64': _riff,
  b'FORM': _aiff,
  b'.snd': _au,
  b'NIST': _sphere,
  b'OggS': _ogg,
}
