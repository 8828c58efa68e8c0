"""Decoding: what is accepted, and the message for everything that is not."""

import io
import os
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from data_prep import audio, features


def encoded(waveform, rate=16000, kind='WAV', subtype='PCM_16'):
  """The bytes of an audio file."""
  file = io.BytesIO()
  soundfile.write(file, waveform, rate, format=kind, subtype=subtype)
  return file.getvalue()


def noise(*shape):
  return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.fixture
def written(tmp_path):
  """Writes bytes to a file with this name and returns its path."""

  def write(data, name='x.wav'):
    path = tmp_path / name
    path.write_bytes(data)
    return path

  return write


def rejected(source, **kwargs):
  with pytest.raises(audio.AudioError) as error:
    audio.decode(source, **kwargs)
  return str(error.value)


def test_mono_is_returned_as_it_was_written(written):
  waveform = noise(1234)
  path = written(encoded(waveform, subtype='FLOAT'))
  result, rate = audio.decode(path)
  assert rate == 16000
  assert result.dtype == np.float32
  np.testing.assert_array_equal(result, waveform)


def test_sixteen_bits_are_scaled_to_one(written):
  data = np.array([-(2**15), 0, 2**14, 2**15 - 1], np.int16)
  result, _ = audio.decode(written(encoded(data)))
  np.testing.assert_array_equal(result, [-1, 0, 0.5, 1 - 2**-15])


@pytest.mark.parametrize('channels', [2, 3, 6])
def test_channels_are_averaged(written, channels):
  waveform = noise(500, channels)
  result, _ = audio.decode(written(encoded(waveform, subtype='FLOAT')))
  assert result.shape == (500,)
  expected = waveform.astype(np.float64).mean(axis=1)
  np.testing.assert_allclose(result, expected, atol=1e-7)


@pytest.mark.parametrize('rate', [7350, 11025, 22051, 44100, 48000, 192000])
def test_any_sample_rate_is_reported(written, rate):
  result, found = audio.decode(written(encoded(noise(321), rate)))
  assert (len(result), found) == (321, rate)


@pytest.mark.parametrize(
  ('kind', 'subtype'),
  [
    ('WAV', 'PCM_U8'),
    ('WAV', 'PCM_24'),
    ('WAV', 'ULAW'),
    ('WAVEX', 'PCM_16'),
    ('RF64', 'PCM_16'),
    ('AIFF', 'PCM_16'),
    ('AU', 'PCM_16'),
    ('NIST', 'PCM_16'),
    ('FLAC', 'PCM_16'),
    ('OGG', 'VORBIS'),
    ('MP3', 'MPEG_LAYER_III'),
  ],
)
def test_formats(kind, subtype):
  waveform = np.sin(np.arange(8000) / 20).astype(np.float32) / 2
  result, rate = audio.decode(encoded(waveform, 16000, kind, subtype))
  assert rate == 16000
  assert len(result) == 8000
  np.testing.assert_allclose(result[1000:7000], waveform[1000:7000], atol=0.06)


def test_bytes_open_files_and_paths_are_the_same(written):
  data = encoded(noise(100))
  path = written(data)
  expected, _ = audio.decode(path)
  with open(path, 'rb') as file:
    for source in (str(path), data, file, io.BytesIO(data)):
      np.testing.assert_array_equal(audio.decode(source)[0], expected)


def test_a_missing_file(tmp_path):
  path = tmp_path / 'gone.wav'
  message = rejected(path)
  assert message.startswith(f'{path}: no such file')
  assert 'check the path' in message


def test_a_folder(tmp_path):
  assert f'{tmp_path}: cannot be read' in rejected(tmp_path)


def test_an_empty_file(written):
  path = written(b'')
  assert f'{path}: the file is empty (0 bytes)' in rejected(path)


def test_zero_length_audio(written):
  path = written(encoded(np.zeros(0, np.float32)))
  assert f'{path}: zero-length audio' in rejected(path)
  assert '0 samples at 16000 Hz' in rejected(path)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(written, bad):
  waveform = noise(1000, 2)
  waveform[[700, 710], 1] = bad
  path = written(encoded(waveform, subtype='FLOAT'))
  assert (
    f'{path}: 2 of 1000 samples are not finite, the first is {bad} at sample '
    '700'
  ) in rejected(path)


def test_text_that_is_called_wav(written):
  path = written(b'This is a note, not a recording.\n')
  message = rejected(path)
  assert (
    f"{path}: not readable as audio; the file begins with b'This" in message
  )
  assert 'convert it to WAV' in message


def test_bytes_that_cannot_be_decoded(written):
  data = bytearray(encoded(noise(20000), kind='FLAC'))
  data[1000:] = np.random.default_rng(0).bytes(len(data) - 1000)
  assert 'x.wav: ' in rejected(written(bytes(data)))
  data = bytearray(encoded(noise(100)))
  data[20:22] = struct.pack('<H', 0x7777)  # No such codec.
  assert 'not readable as audio' in rejected(written(bytes(data)))


@pytest.mark.parametrize('size', [1, 4, 11, 12, 20, 36, 43])
def test_a_wav_cut_in_its_header(written, size):
  path = written(encoded(noise(100))[:size])
  message = rejected(path)
  assert message.startswith(f'{path}: ')
  assert 'truncated header' in message or 'not readable as audio' in message


@pytest.mark.parametrize('removed', [1, 2, 1000, 199])
def test_a_wav_shorter_than_its_header_promises(written, removed):
  path = written(encoded(noise(1000))[:-removed])
  assert (
    f'{path}: truncated; the header promises 2000 bytes of audio, the file '
    f'holds {2000 - removed}'
  ) in rejected(path)


@pytest.mark.parametrize(
  ('kind', 'subtype'),
  [
    ('RF64', 'PCM_16'),
    ('AIFF', 'PCM_16'),
    ('AU', 'PCM_16'),
    ('NIST', 'PCM_16'),
    ('FLAC', 'PCM_16'),
    ('OGG', 'VORBIS'),
    ('MP3', 'MPEG_LAYER_III'),
  ],
)
@pytest.mark.filterwarnings('error')
def test_other_formats_cut_in_the_middle(kind, subtype):
  data = encoded(noise(40000), 16000, kind, subtype)
  assert len(audio.decode(data)[0]) == 40000
  for part in (0.9, 0.5, 0.1):
    message = rejected(data[: int(len(data) * part)], name='a.bin')
    assert message.startswith('a.bin: ')
    assert 'truncated' in message or 'not readable' in message


def test_chunks_before_and_after_the_audio_are_no_matter(written):
  data = encoded(noise(500))
  extra = b'LIST' + struct.pack('<I', 3) + b'abc\0'  # Padded to even.
  middle = data[:36] + extra + data[36:] + extra
  result, _ = audio.decode(written(middle))
  assert len(result) == 500


# Who writes it into the header of what goes into a pipe.
STREAMED = {
  'ffmpeg': 0xFFFFFFFF,
  'even': 0xFFFFFFFE,
  'ffmpeg-less-header': 0xFFFFFFFF - 36,
  'arecord': 0x80000000,
  'signed': 0x7FFFFFFF,
  'sox-16': 0x7FFFF000,
  'sox-24': 0x7FFFEFFC,
  'gstreamer': 0,
}


def streamed(data, size, order='<'):
  """The WAV with this size of its audio, as if it went into a pipe."""
  data = bytearray(data)
  struct.pack_into(f'{order}I', data, data.index(b'data') + 4, size)
  struct.pack_into(f'{order}I', data, 4, min(size + 36, 0xFFFFFFFF))
  return bytes(data)


@pytest.mark.parametrize('size', STREAMED.values(), ids=STREAMED)
@pytest.mark.parametrize('subtype', ['PCM_16', 'PCM_24', 'FLOAT', 'ULAW'])
def test_a_stream_that_could_not_know_its_length_is_accepted(size, subtype):
  waveform = noise(500, 2)
  whole = encoded(waveform, subtype=subtype)
  expected, _ = audio.decode(whole)
  # Of what follows the audio nothing is known in a stream, so nothing does.
  end = whole.index(b'data') + 8
  end += struct.unpack_from('<I', whole, end - 4)[0]
  data = streamed(whole[:end], size)
  result, rate = audio.decode(io.BytesIO(data))
  assert rate == 16000
  np.testing.assert_array_equal(result, expected)
  # A recorder that was stopped in the middle of a frame.
  result, _ = audio.decode(data[:-1])
  np.testing.assert_array_equal(result, expected[:-1])


def test_a_stream_of_the_other_byte_order():
  file = io.BytesIO()
  soundfile.write(file, noise(500), 16000, format='WAV', endian='BIG')
  data = streamed(file.getvalue(), 0x80000000, '>')
  assert data[:4] == b'RIFX'
  assert len(audio.decode(data)[0]) == 500


@pytest.mark.parametrize('size', [1001, 3_000_000, 0x7FFE0000, 0xC0000000])
def test_a_size_that_a_file_may_have_is_believed(size):
  message = rejected(streamed(encoded(noise(500)), size))
  assert f'truncated; the header promises {size} bytes of audio' in message


def test_no_audio_before_other_chunks_is_no_audio():
  data = encoded(np.zeros(0, np.float32))
  assert data[40:44] == b'\0\0\0\0'
  note = b'LIST' + struct.pack('<I', 4) + b'INFO'
  assert 'zero-length audio' in rejected(data + note)


@pytest.mark.parametrize('size', [0, 0x80000000, 0xFFFFFFFF])
def test_a_stream_that_ended_before_its_audio(size):
  data = streamed(encoded(np.zeros(0, np.float32)), size)
  assert 'zero-length audio' in rejected(data)


@pytest.mark.parametrize('extra', [44, 36])
def test_a_header_that_counts_itself_is_believed_with_a_warning(extra):
  """As Android recorders write it."""
  waveform = noise(500)
  data = bytearray(encoded(waveform, subtype='PCM_16'))
  struct.pack_into('<I', data, 40, 1000 + extra)
  struct.pack_into('<I', data, 4, 1000 + extra + 36)
  found = audio.read(bytes(data))
  np.testing.assert_array_equal(
    found.waveform, audio.decode(encoded(waveform))[0]
  )
  assert f'the header promises {1000 + extra} bytes of audio' in found.warning
  assert audio.read(encoded(waveform)).warning == ''
  assert 'truncated' in rejected(bytes(data[:-2]))


M4A = b'\0\0\0\x20ftypM4A \0\0\0\0'


@pytest.mark.parametrize(
  ('name', 'head'),
  [
    ('a.m4a', M4A),
    ('a.aac', b'\xff\xf1\x50\x80'),
    ('a.webm', b'\x1aE\xdf\xa3'),
    ('a.amr', b'#!AMR\n'),
    ('a.wma', b'0&\xb2u\x8ef\xcf\x11'),
    ('recording', M4A),  # By its content, whatever its name.
    ('-i.m4a', b'by its name'),
  ],
)
def test_other_formats_are_decoded_by_ffmpeg(
  written, tmp_path, monkeypatch, name, head
):
  path = written(head + bytes(100), name)
  monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
  message = rejected(path)
  assert message.startswith(f'{path}: ')
  assert 'decoded by ffmpeg, which is not installed; install it' in message
  # One that writes to a pipe, and so cannot know the size.
  wav = streamed(encoded(noise(500)), 0xFFFFFFFF)
  (tmp_path / 'out.wav').write_bytes(wav)
  program = tmp_path / 'bin' / 'ffmpeg'
  program.parent.mkdir()
  program.write_text(
    f'#!/bin/sh\necho "$@" > {tmp_path}/called\n/bin/cat {tmp_path}/out.wav\n'
  )
  program.chmod(0o755)
  np.testing.assert_array_equal(audio.decode(path)[0], audio.decode(wav)[0])
  assert f'-i file:{path} ' in (tmp_path / 'called').read_text()
  if head != b'by its name':
    assert len(audio.decode(path.read_bytes())[0]) == 500
  program.write_text('#!/bin/sh\necho first; echo no moov atom >&2; exit 1\n')
  assert 'ffmpeg ended with exit status 1 and says "no moov' in rejected(path)


def test_find_recordings_finds_audio_and_nothing_else(tmp_path):
  names = ['b/x.WAV', 'a.m4a', 'a.flac', 'c d.mp3', 'not.txt']
  names += ['._a.wav', '__MACOSX/b/x.wav', '.Trash/y.wav', 'z.wav/inside.wav']
  for name in names:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b'')
  os.symlink(tmp_path, tmp_path / 'b' / 'up')
  found = [
    str(p.relative_to(tmp_path)) for p in audio.find_recordings(tmp_path)
  ]
  assert found == ['a.flac', 'a.m4a', 'b/x.WAV', 'c d.mp3', 'z.wav/inside.wav']
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
  assert part.samples == len(waveform)
  assert part.seconds == 60
  assert len(part.waveform) < 17000
  np.testing.assert_array_equal(
    part.waveform, waveform[part.start : part.start + len(part.waveform)]
  )
  # Not a bit differs from the features of the whole.
  np.testing.assert_array_equal(
    convention(
      part.waveform, part.rate, start=part.start, samples=part.samples
    ),
    convention(waveform, 16000),
  )
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
