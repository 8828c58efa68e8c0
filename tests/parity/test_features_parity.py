"""Published features, from wav files through the store and the DCT."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from data_prep import corpora, features, store
from data_prep import manifest as manifest_lib
from jaxser.data import corpus as corpus_lib
from jaxser.ops import dct
from tests import shared


def prepared(names, convention, data_dir):
  """A store of these EmoDB files."""
  folder = shared.require('corpora/emodb/wav')
  manifest = manifest_lib.Manifest(
    corpus='emodb',
    classes=('angry', 'boredom', 'neutral'),
    vad_range=None,
    utterances=tuple(
      manifest_lib.Utterance(
        id=pathlib.PurePath(name).stem,
        path=folder / name,
        label={'F': '', 'W': 'angry', 'N': 'neutral', 'T': ''}[name[5]],
        speaker=name[:2],
      )
      for name in names
    ),
    root=folder,
  )
  path = store.prepare(
    manifest,
    corpora.CORPORA['emodb'],
    features=convention,
    data_dir=data_dir,
    report=print,
  )
  return corpus_lib.open_store(path)


def test_published_mfccs(tmp_path):
  shared.require('corpora/emodb/wav')
  golden = np.load(shared.require('goldens/features_librosa22k.npz'))
  names = [str(name) for name in golden['files']]
  spec = corpora.CORPORA['emodb']
  convention = features.Librosa22k(signal_length=spec.signal_length)
  corpus = prepared(names, convention, tmp_path)
  for row, name in enumerate(names):
    log_mel = corpus.read(row)
    assert log_mel.shape == (188, 128)
    mfcc = dct.mfcc(jnp.asarray(log_mel))
    np.testing.assert_allclose(
      mfcc, golden['mfcc'][row], rtol=0, atol=2e-4, err_msg=name
    )
  # The fourth is longer than signal_length, so it was cropped.
  assert corpus.table.durations[3] * 22050 > spec.signal_length


def test_published_filterbanks(tmp_path):
  shared.require('corpora/emodb/wav')
  golden = np.load(shared.require('goldens/features_kaldi16k.npz'))
  names = [str(name) for name in golden['files']]
  corpus = prepared(names, features.Kaldi16k(), tmp_path)
  for row, name in enumerate(names):
    expected = golden[f'fbank{row}']
    np.testing.assert_allclose(
      corpus.read(row), expected, rtol=0, atol=1e-3, err_msg=name
    )


@pytest.mark.parametrize('name', ['librosa22k', 'kaldi16k', 'wave16k'])
def test_the_whole_of_emodb_is_readable_audio(name):
  """Every file decodes; a long and a short one have the shape foretold."""
  from data_prep import audio

  folder = shared.require('corpora/emodb/wav')
  paths = sorted(folder.glob('*.wav'))
  assert len(paths) == 535
  if name != 'wave16k':
    paths = [max(paths, key=size_of), min(paths, key=size_of)]
  parameters = {'signal_length': 96000} if name == 'librosa22k' else {}
  convention = features.by_name(name, **parameters)
  for path in paths:
    waveform, rate = audio.read(path)[:2]
    result = convention(waveform, rate)
    assert result.shape == convention.shape(len(waveform), rate)
    assert np.isfinite(result).all()


def size_of(path):
  return path.stat().st_size
