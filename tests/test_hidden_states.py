"""Hidden states in a store are those of the network, whatever the batch.

And what is learnt from them can be used on recordings.
"""

import functools
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from configs import emosphere
from data_prep import __main__ as data_prep_program
from data_prep import command_line, store
from data_prep.errors import UserError
from jaxser import export
from jaxser.data import corpus as corpus_lib
from jaxser.data import pipeline, protocols
from jaxser.engine import train
from jaxser.models import frozen_wavlm, hidden_states
from jaxser.models import saved as models
from jaxser.nn import hf_wavlm
from jaxser.nn.wavlm import WavLM
from jaxser.nn.wavlm_config import SIZES
from tests import trained
from tests.random_tree import quick_jit, save_wavlm, wavlm_arrays
from tests.test_data_prep_cli import write_wav

SECONDS = (0.31, 0.9, 0.42, 0.6, 0.33)
# Frames that training cuts utterances to: two of five are longer.
LONGEST = 22


def write_wavlm(folder, seed):
  """A WavLM of three narrow layers with random weights."""
  arrays = wavlm_arrays(SIZES['tiny'], seed=seed)
  return save_wavlm(folder, arrays, SIZES['tiny'])


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  return write_wavlm(tmp_path_factory.mktemp('weights') / 'wavlm', 0)


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
  arguments = ['--corpus=manifest', '--vad_range=1,5', '--features=wave16k']
  arguments += [f'--audio_dir={folder / "audio"}', f'--data_dir={folder}']
  assert data_prep_program.run(arguments) == 0
  with pytest.MonkeyPatch.context() as patch:
    # Sorted by length two at a time, not five: as in a large corpus.
    patch.setattr(hidden_states, '_WINDOW', 1)
    assert prepare(folder, weights, '--layer=2', '--batch_size=2') == 0
  return folder, store.find_store(folder, 'manifest', 'wavlm', layer=2)


def prepare(folder, weights, *arguments):
  given = ['--corpus=manifest', f'--weights={weights}', f'--data_dir={folder}']
  program = hidden_states
  return command_line.run(program.main, program.FLAGS, [*given, *arguments])


def test_states_are_those_of_each_utterance_alone(prepared, weights):
  folder, path = prepared
  config, params = hf_wavlm.load(weights)
  waves = corpus_lib.open_store(store.find_store(folder, 'manifest', 'wave16k'))
  found = corpus_lib.open_store(path)
  assert list(found.table.ids) == list(waves.table.ids)
  np.testing.assert_array_equal(found.table.vad, waves.table.vad)
  statistics = waves.stores['manifest']['statistics']
  run = quick_jit(functools.partial(WavLM(config).apply, keep_hidden=True))
  for row in (1, 4):
    samples = waves.read(row) - statistics['mean']
    samples /= statistics['std'] + 1e-6
    _, _, out = run({'params': params}, jnp.asarray(samples)[None])
    got = found.read(row)
    assert got.dtype == np.float32
    # Stored in half precision.
    wanted = np.asarray(out['hidden'][2, 0])
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
  for row, length in enumerate(pipeline.Source(waves).lengths):
    assert len(found.read(row)) == config.frames(int(length))


def test_last_layer_is_the_one_that_systems_pool(weights):
  config, params = hf_wavlm.load(weights)
  given = {'layer': config.num_hidden_layers, 'dtype': 'float32'}
  hidden = frozen_wavlm.HiddenStates(config, params, given)
  samples = np.random.default_rng(0).standard_normal((2, 4000)).astype('f')
  batch = samples, np.array([4000, 2500], np.int32)
  found, lengths = quick_jit(hidden.states)(hidden.needed, *batch)
  frames, count, _ = quick_jit(WavLM(config).apply)({'params': params}, *batch)
  np.testing.assert_allclose(found[0], frames[0], atol=1e-5)
  assert lengths[1] == count[1] < lengths[0]


def test_twice_is_once_and_other_settings_are_another_store(
  prepared, weights, capsys
):
  folder, path = prepared
  changed = (path / 'store.json').stat().st_mtime_ns
  assert prepare(folder, weights, '--layer=2') == 0
  assert 'already prepared' in capsys.readouterr().out
  assert (path / 'store.json').stat().st_mtime_ns == changed
  info = json.loads((path / 'store.json').read_text())
  assert info['frames_per_second'] == 50
  assert info['parameters']['layer'] == 2
  assert info['parameters']['weights'] == frozen_wavlm.hash_of(weights)
  assert prepare(folder, weights, '--layer=9') == 2
  assert '--layer=9: the model has the layers' in capsys.readouterr().err
  message = '--features=wavlm --weights=DIR --layer=1'
  with pytest.raises(store.NotPreparedError, match=message):
    store.find_store(folder, 'manifest', 'wavlm', layer=1)
  with pytest.raises(UserError, match=r'loud: .* 70000.0, more than float16'):
    hidden_states.stored(np.full((1, 2), 7e4), 'float16', 'loud')


def test_data_prep_asks_for_weights(capsys, tmp_path):
  arguments = ['--corpus=demo', f'--data_dir={tmp_path}']
  assert data_prep_program.run([*arguments, '--features=wavlm']) == 2
  assert 'needs the folder of a Hugging Face WavLM' in capsys.readouterr().err
  assert data_prep_program.run([*arguments, '--weights=x']) == 2
  assert 'goes with --features=wavlm only' in capsys.readouterr().err


def recipe():
  config = emosphere.get_config('corpus=manifest,encoder=wavlm,frozen,runlocal')
  config.data.max_length = LONGEST
  config.model.width = 8
  return config


@pytest.fixture(scope='module')
def workdir(prepared):
  """A run on the stored states, with random weights."""
  folder, path = prepared
  corpus = corpus_lib.open_store(path)
  fold = protocols.Fold(0, *([np.arange(5)] * 3))
  trained.write_run_of(folder / 'run', recipe(), corpus, [fold], ('last',))
  return folder / 'run'


@pytest.mark.slow
def test_the_heads_train_on_stored_states(prepared, tmp_path):
  config = recipe()
  config.data_dir = str(prepared[0])
  config.data.num_buckets = config.epochs = 1
  config.tensorboard = False
  found = train.run(config, tmp_path)
  assert found['selections']['last']['pooled']['utterances'] == 1
  (store_info,) = found['environment']['stores'].values()
  assert store_info['layer'] == 2


@pytest.fixture
def predict(capsys, monkeypatch):
  return trained.predict_program(capsys, monkeypatch)


def test_predictions_are_those_on_stored_states(
  prepared, workdir, weights, predict, monkeypatch
):
  """Also of utterances that are cut: WavLM gets them whole."""
  folder, path = prepared
  corpus = corpus_lib.open_store(path)
  source = pipeline.Source(corpus, max_length=LONGEST)
  assert (source.lengths == LONGEST).sum() == 2
  description = models.open(workdir)
  tree = models.load(workdir, *description.trainings[0])
  wanted = trained.outputs(description.system, source, *tree)
  # As a user types it.
  monkeypatch.setenv('HOME', str(weights.parent))
  files = [folder / 'audio' / f'{name}.wav' for name in corpus.table.ids]
  write_wav(click := folder / 'click.wav', 0.02)
  flags = [f'--checkpoint={workdir}', '--weights=~/wavlm', '--format=jsonl']
  code, text, errors = predict(*flags, *files, click)
  *answers, refused = [json.loads(line) for line in text.splitlines()]
  assert code == 1
  assert 'click.wav: lasts 20.0 ms, less than one frame of' in refused['error']
  found = [[a[n] for n in ('valence', 'arousal', 'dominance')] for a in answers]
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
  assert np.ptp(wanted, axis=0).max() > 1e-3
  assert '2 of 6 recordings are longer than the 0.4' in errors


def test_the_weights_must_be_those_of_the_store(
  prepared, workdir, weights, predict, tmp_path, capsys
):
  file = prepared[0] / 'audio' / '0.wav'
  other = write_wavlm(tmp_path / 'other', 1)
  wanted, there = frozen_wavlm.hash_of(weights), frozen_wavlm.hash_of(other)
  # A model that hears something else has no use for them.
  copy = shutil.copytree(workdir, tmp_path / 'W')
  content = json.loads((copy / 'model.json').read_text())
  content['features']['name'] = 'kaldi16k'
  content['fingerprint'] = models.fingerprint(content)
  (copy / 'model.json').write_text(json.dumps(content))
  for run, given, messages in (
    (workdir, None, ['of a WavLM (layer 2 of 3', 'give --weights=DIR, the']),
    (workdir, other, [f'weights {wanted}), and {other} h', there]),
    (workdir, tmp_path, ['config.json does not exist. Give the dir']),
    (copy, weights, ['are kaldi16k, no hidden states of a WavLM; leave']),
  ):
    flags = [f'--checkpoint={run}', *([f'--weights={given}'] if given else [])]
    code, out, errors = predict(*flags, file)
    assert (code, out) == (2, '')
    assert all(message in errors for message in messages)
  # It is exported with its WavLM or not at all.
  out = tmp_path / 'm'
  assert export.main([f'--checkpoint={workdir}', f'--out={out}']) == 2
  errors = capsys.readouterr().err
  assert 'cannot be exported; use `python -m jaxser.predict --w' in errors
  assert not out.exists()
