"""Hidden states in a store are those of the network, whatever the batch."""

import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from configs import emosphere
from data_prep import __main__ as data_prep_program
from data_prep import store
from jaxser import hidden_states, train
from jaxser.convert import hf_wavlm
from jaxser.data import corpus as corpus_lib
from jaxser.data import pipeline
from jaxser.nn.wavlm import WavLM
from tests import shared
from tests.random_tree import quick_jit
from tests.test_data_prep_cli import write_wav

SECONDS = (0.31, 0.9, 0.42, 0.6, 0.33)


@pytest.fixture(scope='module')
def weights():
  return shared.require('goldens/wavlm_large_style')


@pytest.fixture(scope='module')
def prepared(tmp_path_factory, weights):
  """A corpus of five files, its waveforms and their hidden states."""
  folder = tmp_path_factory.mktemp('hidden')
  lines = ['path\tspeaker\tvalence\tarousal\tdominance\tlabel']
  for number, seconds in enumerate(SECONDS):
    write_wav(folder / 'audio' / f'{number}.wav', seconds)
    label = 'neutral' if number % 2 else 'angry'
    vad = '\t\t' if number == 4 else f'{2 + number / 2}\t2.5\t{4 - number / 2}'
    lines.append(f'{number}.wav\ts{number}\t{vad}\t{label}')
  (folder / 'audio' / 'manifest.tsv').write_text('\n'.join(lines) + '\n')
  done = data_prep_program.main(
    [
      'data_prep',
      '--corpus=manifest',
      f'--audio_dir={folder / "audio"}',
      '--vad_range=1,5',
      '--features=wave16k',
      f'--data_dir={folder}',
    ]
  )
  assert done == 0
  path = hidden_states.prepare(
    'manifest',
    weights,
    layer=2,
    data_dir=folder,
    batch_size=2,
    report=lambda line: None,
  )
  return folder, path


def test_states_are_those_of_each_utterance_alone(prepared, weights):
  folder, path = prepared
  config, params = hf_wavlm.load(weights)
  waves = corpus_lib.open_store(store.find_store(folder, 'manifest', 'wave16k'))
  found = corpus_lib.open_store(path)
  assert list(found.table.ids) == list(waves.table.ids)
  np.testing.assert_array_equal(found.table.vad, waves.table.vad)
  statistics = waves.stores['manifest']['statistics']
  samples = (waves.read(1) - statistics['mean']) / (statistics['std'] + 1e-6)
  run = quick_jit(functools.partial(WavLM(config).apply, keep_hidden=True))
  _, _, out = run({'params': params}, jnp.asarray(samples)[None])
  got = found.read(1)
  assert got.dtype == np.float32
  # Stored in half precision.
  wanted = np.asarray(out['hidden'][2, 0])
  np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
  for row, length in enumerate(pipeline.Source(waves).lengths):
    assert len(found.read(row)) == config.frames(int(length))


def test_last_layer_is_the_one_that_systems_pool(weights):
  config, params = hf_wavlm.load(weights)
  extractor = hidden_states.Extractor(config, params, config.num_hidden_layers)
  samples = np.random.default_rng(0).standard_normal((2, 4000))
  length = np.array([4000, 2500], np.int32)
  long, short = extractor(samples.astype(np.float32), length)
  frames, count, _ = quick_jit(WavLM(config).apply)(
    {'params': params}, jnp.asarray(samples, jnp.float32), jnp.asarray(length)
  )
  np.testing.assert_allclose(long, frames[0], atol=1e-5)
  assert len(short) == count[1] < len(long)


def test_twice_is_once_and_other_settings_are_another_store(prepared, weights):
  folder, path = prepared
  said = []

  def again(**changes):
    return hidden_states.prepare(
      'manifest', weights, data_dir=folder, report=said.append, **changes
    )

  changed = (path / 'store.json').stat().st_mtime_ns
  assert again(layer=2, batch_size=2) == path
  assert 'already prepared' in said[0]
  assert (path / 'store.json').stat().st_mtime_ns == changed
  info = json.loads((path / 'store.json').read_text())
  assert info['frames_per_second'] == 50
  assert info['parameters']['layer'] == 2
  assert info['parameters']['weights'] == hidden_states.hash_of(weights)
  with pytest.raises(ValueError, match=r'--layer=9: the model has the layers'):
    again(layer=9)
  found = store.find_store(folder, 'manifest', 'wavlm', layer=2)
  assert found == path
  with pytest.raises(
    store.NotPreparedError, match=r'--features=wavlm --weights=DIR --layer=1'
  ):
    store.find_store(folder, 'manifest', 'wavlm', layer=1)


def test_values_beyond_half_precision_are_refused():
  with pytest.raises(ValueError, match=r'loud: .* 70000.0, more than float16'):
    hidden_states._stored(np.full((1, 2), 7e4), 'float16', 'loud')


def test_data_prep_asks_for_weights(capsys, tmp_path):
  arguments = ['data_prep', '--corpus=demo', f'--data_dir={tmp_path}']
  assert data_prep_program.main([*arguments, '--features=wavlm']) == 2
  assert 'needs the folder of a Hugging Face WavLM' in capsys.readouterr().err
  assert data_prep_program.main([*arguments, '--weights=x']) == 2
  assert 'goes with --features=wavlm only' in capsys.readouterr().err


def test_the_heads_train_on_stored_states(prepared):
  folder, _ = prepared
  config = emosphere.get_config('corpus=manifest,encoder=wavlm,frozen,runlocal')
  config.data_dir = str(folder)
  config.model.width = 8
  config.data.num_buckets = 1
  config.epochs = 1
  config.tensorboard = False
  found = train.run(config, folder / 'run')
  assert found['selections']['last']['pooled']['utterances'] == 1
  (about,) = found['environment']['stores'].values()
  assert about['layer'] == 2
