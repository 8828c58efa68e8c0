"""Published features, from wav files through the store and the DCT."""

import pathlib

import jax.numpy as jnp
import numpy as np

from data_prep import corpora, features, store
from data_prep import manifest as manifest_lib
from jaxser.data import corpus as corpus_lib
from jaxser.ops import dct
from tests import shared


def prepared(names, convention, data_dir):
  """A store of these EmoDB files."""
  folder = shared.require('corpora/emodb/wav')
  labels = {'F': '', 'W': 'angry', 'N': 'neutral', 'T': ''}
  rows = [
    (pathlib.PurePath(name).stem, folder / name, labels[name[5]], name[:2])
    for name in names
  ]
  utterances = tuple(manifest_lib.Utterance(*row) for row in rows)
  classes = ('angry', 'boredom', 'neutral')
  about = 'emodb', classes, None, utterances, folder
  options = {'features': convention, 'data_dir': data_dir, 'report': print}
  spec = corpora.CORPORA['emodb']
  path = store.prepare(manifest_lib.Manifest(*about), spec, **options)
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
    expected = golden['mfcc'][row]
    np.testing.assert_allclose(mfcc, expected, rtol=0, atol=2e-4, err_msg=name)
  # The fourth is longer than signal_length, so it was cropped.
  assert corpus.table.durations[3] * 22050 > spec.signal_length


def test_published_filterbanks(tmp_path):
  shared.require('corpora/emodb/wav')
  golden = np.load(shared.require('goldens/features_kaldi16k.npz'))
  names = [str(name) for name in golden['files']]
  corpus = prepared(names, features.Kaldi16k(), tmp_path)
  for row, name in enumerate(names):
    found, expected = corpus.read(row), golden[f'fbank{row}']
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3, err_msg=name)
