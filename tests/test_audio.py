"""Decoding: what is accepted, and the message for everything that is not."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from data_prep import audio, features
from tests import trees


def encoded(waveform, rate=16000, kind='WAV', subtype='PCM_16', endian=None):
  """The bytes of an audio file."""
  file = io.BytesIO()
  soundfile.write(file, waveform, rate, subtype, endian, format=kind)
  return file.getvalue()


def noise(*shape):
  return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.fixture
def written(tmp_path):
  """Writes bytes to a file with this name and returns its path."""

  def write(data, name='x.wav'):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name

  return write


def rejected(source, **kwargs):
  with pytest.raises(audio.AudioError) as error:
    audio.read(source, **kwargs)
  return str(error.value)


@pytest.mark.parametrize('rate', [7350, 16000, 192000])
@pytest.mark.parametrize('channels', [1, 2, 6])
def test_samples_are_returned_as_written_and_channels_averaged(
  written, rate, channels
):
  waveform = noise(500, channels)
  path = written(encoded(waveform, rate, subtype='FLOAT'))
  result, found = audio.read(path)[:2]
  assert (found, result.dtype) == (rate, np.float32)
  np.testing.assert_allclose(result, waveform.mean(1, np.float64), atol=1e-7)
  with open(path, 'rb') as file:
    for source in (str(path), path.read_bytes(), file):
      np.testing.assert_array_equal(audio.read(source).waveform, result)


def test_sixteen_bits_are_scaled_to_one(written):
  data = np.array([-(2**15), 0, 2**14, 2**15 - 1], np.int16)
  result = audio.read(written(encoded(data))).waveform
  np.testing.assert_array_equal(result, [-1, 0, 0.5, 1 - 2**-15])


TRUNCATION_SHOWS = [
  *(('RF64', 'PCM_16'), ('AIFF', 'PCM_16'), ('AU', 'PCM_16')),
  *(('NIST', 'PCM_16'), ('FLAC', 'PCM_16')),
  *(('OGG', 'VORBIS'), ('MP3', 'MPEG_LAYER_III')),
]
OTHERS = [('WAV', 'PCM_U8'), ('WAV', 'PCM_24'), ('WAV', 'ULAW')]
OTHERS += [('WAVEX', 'PCM_16')]


@pytest.mark.parametrize(('kind', 'subtype'), [*TRUNCATION_SHOWS, *OTHERS])
def test_formats(kind, subtype):
  waveform = np.sin(np.arange(40000) / 20).astype(np.float32) / 2
  found = audio.read(encoded(waveform, 16000, kind, subtype))
  assert (found.rate, len(found.waveform)) == (16000, 40000)
  assert found.warning == ''
  middle = slice(1000, 39000)
  np.testing.assert_allclose(
    found.waveform[middle], waveform[middle], atol=0.06
  )
  data = encoded(noise(40000), 16000, kind, subtype)
  for part in (0.9, 0.5, 0.1) if (kind, subtype) in TRUNCATION_SHOWS else ():
    message = rejected(data[: int(len(data) * part)], name='a.bin')
    assert message.startswith('a.bin: ')
    assert 'truncated' in message or 'not readable' in message


SHORT = encoded(noise(100))
NAN = encoded(np.repeat([[0.1, np.nan]], 3, 0), subtype='FLOAT')
INFINITE = encoded(np.r_[noise(700), -np.inf], subtype='FLOAT')


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'', 'the file is empty (0 bytes)'),
    (
      encoded(noise(0)),
      'zero-length audio (a valid header and 0 samples at 16',
    ),
    # After no audio other chunks may come: they are none.
    (encoded(noise(0)) + b'LIST\4\0\0\0INFO', 'zero-length audio'),
    (
      b'This is a note.\n',
      "not readable as audio; the file begins with b'This",
    ),
    (
      NAN,
      '3 of 3 samples are not finite, the first is nan at sample 0; repair',
    ),
    (
      INFINITE,
      '1 of 701 samples are not finite, the first is -inf at sample 7',
    ),
    # A codec that does not exist, and a FLAC of noise.
    (SHORT[:20] + b'ww' + SHORT[22:], 'not readable'),
    (encoded(noise(20000), kind='FLAC')[:1000] + bytes(9000), 'not readable'),
  ],
)
def test_what_cannot_be_used_is_named(written, data, message):
  path = written(data)
  assert f'{path}: {message}' in rejected(path)


def test_files_that_are_not_there(tmp_path):
  path = tmp_path / 'gone.wav'
  assert f'{path}: no such file; check the path' in rejected(path)
  assert f'{tmp_path}: cannot be read' in rejected(tmp_path)


@pytest.mark.parametrize('size', [1, 4, 11, 12, 20, 36, 43])
def test_a_wav_cut_in_its_header(size):
  message = rejected(SHORT[:size])
  assert 'truncated header' in message or 'not readable as audio' in message


@pytest.mark.parametrize('removed', [1, 2, 1000, 199])
def test_a_wav_shorter_than_its_header_promises(removed):
  message = rejected(encoded(noise(1000))[:-removed])
  assert 'truncated; the header promises 2000 bytes of audio' in message
  assert f'the file holds {2000 - removed}' in message


def test_chunks_before_and_after_the_audio_are_no_matter():
  data = encoded(noise(500))
  extra = b'LIST' + struct.pack('<I', 3) + b'abc\0'  # Padded to even.
  result = audio.read(data[:36] + extra + data[36:] + extra).waveform
  assert len(result) == 500


# Who writes it into the header of what goes into a pipe.
STREAMED = {'ffmpeg': 0xFFFFFFFF, 'ffmpeg-less-header': 0xFFFFFFFF - 36}
STREAMED |= {'even': 0xFFFFFFFE, 'arecord': 0x80000000, 'signed': 0x7FFFFFFF}
STREAMED |= {'sox-16': 0x7FFFF000, 'sox-24': 0x7FFFEFFC, 'gstreamer': 0}


def streamed(data, size, order='<'):
  """The WAV with this size of its audio, as if it went into a pipe."""
  data = bytearray(data)
  struct.pack_into(f'{order}I', data, data.index(b'data') + 4, size)
  struct.pack_into(f'{order}I', data, 4, min(size + 36, 0xFFFFFFFF))
  return bytes(data)


@pytest.mark.parametrize('size', STREAMED.values(), ids=STREAMED)
@pytest.mark.parametrize('subtype', ['PCM_16', 'PCM_24', 'FLOAT', 'ULAW'])
def test_a_stream_that_could_not_know_its_length_is_accepted(size, subtype):
  whole = encoded(noise(500, 2), subtype=subtype)
  expected = audio.read(whole).waveform
  # Of what follows the audio nothing is known in a stream, so nothing does.
  end = whole.index(b'data') + 8
  end += struct.unpack_from('<I', whole, end - 4)[0]
  data = streamed(whole[:end], size)
  np.testing.assert_array_equal(audio.read(io.BytesIO(data)).waveform, expected)
  # A recorder that was stopped in the middle of a frame.
  np.testing.assert_array_equal(audio.read(data[:-1]).waveform, expected[:-1])
  if subtype == 'PCM_16':
    assert 'zero-length audio' in rejected(streamed(whole[:44], size))
    big = streamed(encoded(noise(500), endian='BIG'), size, '>')
    assert (big[:4], len(audio.read(big).waveform)) == (b'RIFX', 500)


@pytest.mark.parametrize('size', [1001, 3_000_000, 0x7FFE0000, 0xC0000000])
def test_a_size_that_a_file_may_have_is_believed(size):
  message = rejected(streamed(encoded(noise(500)), size))
  assert f'truncated; the header promises {size} bytes of audio' in message


@pytest.mark.parametrize('extra', [44, 36, 8])
def test_a_header_that_counts_itself_is_believed_with_a_warning(extra):
  """As Android recorders write it."""
  data = encoded(noise(500))
  assert audio.read(data).warning == ''
  odd = streamed(data, 1000 + extra)
  found = audio.read(odd)
  np.testing.assert_array_equal(found.waveform, audio.read(data).waveform)
  assert f'the header promises {1000 + extra} bytes of audio' in found.warning
  assert 'truncated' in rejected(odd[:-2])


M4A = b'\0\0\0\x20ftypM4A \0\0\0\0'
FOR_FFMPEG = [('a.m4a', M4A), ('a.aac', b'\xff\xf1\x50\x80')]
FOR_FFMPEG += [('a.webm', b'\x1aE\xdf\xa3'), ('a.amr', b'#!AMR\n')]
FOR_FFMPEG += [('a.wma', b'0&\xb2u\x8ef\xcf\x11'), ('-i.m4a', b'by its name')]
FOR_FFMPEG += [('recording', M4A)]  # By its content, whatever its name.


@pytest.mark.parametrize(('name', 'head'), FOR_FFMPEG)
def test_other_formats_are_decoded_by_ffmpeg(
  written, tmp_path, monkeypatch, name, head
):
  path = written(head + bytes(100), name)
  monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
  assert f'{path}: this format is decoded by ffmpeg, which is' in rejected(path)
  # One that writes to a pipe, and so cannot know the size.
  wav = streamed(encoded(noise(500)), 0xFFFFFFFF)
  out, called = written(wav, 'out.wav'), tmp_path / 'called'
  program = tmp_path / 'bin' / 'ffmpeg'
  program.parent.mkdir()
  program.write_text(f'#!/bin/sh\necho "$@" > {called}\n/bin/cat {out}\n')
  program.chmod(0o755)
  expected = audio.read(wav).waveform
  np.testing.assert_array_equal(audio.read(path).waveform, expected)
  assert f'-i file:{path} ' in called.read_text()
  if head != b'by its name':
    assert len(audio.read(path.read_bytes()).waveform) == 500
  program.write_text('#!/bin/sh\necho first; echo no moov atom >&2; exit 1\n')
  assert 'ffmpeg ended with exit status 1 and says "no moov' in rejected(path)


def test_find_recordings_finds_audio_and_nothing_else(tmp_path):
  names = ['b/x.WAV', 'a.m4a', 'a.flac', 'c d.mp3', 'not.txt']
  names += ['._a.wav', '__MACOSX/b/x.wav', '.Trash/y.wav', 'z.wav/inside.wav']
  trees.touch(tmp_path, *names)
  (tmp_path / 'b' / 'up').symlink_to(tmp_path)
  found = audio.find_recordings(tmp_path)
  wanted = ['a.flac', 'a.m4a', 'b/x.WAV', 'c d.mp3', 'z.wav/inside.wav']
  assert found == [tmp_path / name for name in wanted]
  one = tmp_path / 'not.txt'
  assert audio.find_recordings(one) == [one]


def test_only_the_needed_part_of_a_long_recording_is_kept(written, monkeypatch):
  waveform = noise(16000 * 60)
  path = written(encoded(waveform, subtype='FLOAT'))
  convention = features.Librosa22k(22050)
  whole = audio.read(path, part=convention.part)
  assert (whole.start, len(whole.waveform)) == (0, len(waveform))
  monkeypatch.setattr(audio, '_WHOLE', 16000)
  monkeypatch.setattr(audio, '_BLOCK', 5000)
  part = audio.read(path, part=convention.part)
  assert (part.samples, part.seconds) == (len(waveform), 60)
  assert len(part.waveform) < 17000
  # Not a bit differs from the features of the whole.
  found = convention(*part[:2], start=part.start, samples=part.samples)
  np.testing.assert_array_equal(found, convention(waveform, 16000))
  beginning = audio.read(path, part=audio.first(2.5)).waveform
  np.testing.assert_array_equal(beginning, waveform[:40000])
  assert 'truncated' in rejected(path.read_bytes()[:-400_000])


@pytest.mark.parametrize('samples', [1, 999, 1000, 1001, 2000, 2500, 12345])
def test_blocks_follow_each_other_and_the_last_ends_with_the_recording(
  monkeypatch, samples
):
  monkeypatch.setattr(audio, '_BLOCK', 700)
  waveform = noise(samples)
  data = encoded(waveform, subtype='FLOAT')
  blocks = list(audio.read_blocks(data, 1000 / 16000))
  starts = [*range(0, samples - 1000, 1000), max(0, samples - 1000)]
  assert [b.start for b in blocks] == starts
  for block in blocks:
    expected = waveform[block.start : block.start + 1000]
    np.testing.assert_array_equal(block.waveform, expected)
  assert blocks[-1].samples == samples


def test_memory_does_not_depend_on_the_length(written):
  rate = 48000
  path = written(encoded(np.zeros((rate * 300, 2), np.int16), rate))
  tracemalloc.start()
  found = audio.read(path, part=features.Librosa22k(96000).part)
  for _ in audio.read_blocks(path, 2.0):
    pass
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert found.seconds == 300
  # All of it would be 115 MB.
  assert peak < 40e6
