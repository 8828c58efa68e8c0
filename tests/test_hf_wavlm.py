"""Hugging Face and PyTorch checkpoints: what is read, and what is refused."""

import dataclasses
import math
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from jaxser.core import tensors
from jaxser.core.errors import ConvertError
from jaxser.models.convert import torch_emosphere
from jaxser.nn import hf_wavlm
from jaxser.nn.wavlm_config import SIZES
from jaxser.systems.emosphere import EmoSphere
from tests.random_tree import TINY_WAVLM, save_wavlm, wavlm_arrays

MODEL = 'model.safetensors'
CONFIG = TINY_WAVLM


def _assert_same(got, wanted):
  jax.tree.map(np.testing.assert_array_equal, got, wanted)
  assert all(value.dtype == np.float32 for value in jax.tree.leaves(got))


def test_both_spellings_of_the_weight_norm_and_task_models(
  tmp_path, monkeypatch
):
  arrays = wavlm_arrays()
  save_wavlm(tmp_path / 'new', arrays)
  monkeypatch.setenv('HOME', str(tmp_path))
  config, wanted = hf_wavlm.load('~/new')
  assert config == CONFIG
  found = wanted['masked_spec_embed']
  np.testing.assert_array_equal(found, arrays['masked_spec_embed'])
  conv = 'encoder.pos_conv_embed.conv.'
  old = {
    conv + 'parametrizations.weight.original0': conv + 'weight_g',
    conv + 'parametrizations.weight.original1': conv + 'weight_v',
  }
  renamed = {old.get(name, name): value for name, value in arrays.items()}
  _assert_same(hf_wavlm.load(save_wavlm(tmp_path / 'old', renamed))[1], wanted)
  task = {f'wavlm.{name}': value for name, value in renamed.items()}
  task['lm_head.weight'] = np.zeros((32, 48), np.float32)
  _assert_same(hf_wavlm.load(save_wavlm(tmp_path / 'task', task))[1], wanted)


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_become_float32(tmp_path, dtype):
  arrays = wavlm_arrays(dtype=dtype)
  _, params = hf_wavlm.load(save_wavlm(tmp_path, arrays))
  wide = {name: x.astype(np.float32) for name, x in arrays.items()}
  _assert_same(params, hf_wavlm.load(save_wavlm(tmp_path, wide))[1])


def test_mask_vector_of_a_config_that_masks_nothing_is_ignored(tmp_path):
  config = dataclasses.replace(CONFIG, mask_time_prob=0.0)
  _, params = hf_wavlm.load(save_wavlm(tmp_path, wavlm_arrays(), config))
  assert 'masked_spec_embed' not in params


def test_every_mismatch_is_listed_on_both_sides(tmp_path):
  arrays = wavlm_arrays()
  del arrays['encoder.layers.1.attention.k_proj.bias']
  arrays['encoder.layers.2.layer_norm.bias'] = np.zeros(48, np.float32)
  arrays['feature_projection.layer_norm.weight'] = np.zeros(9, np.float32)
  with pytest.raises(ConvertError) as error:
    hf_wavlm.load(save_wavlm(tmp_path, arrays))
  message = str(error.value)
  assert 'model.safetensors does not fit the model' in message
  missing, left, differing = message.split('\n  ', 1)[1].split(':\n')[1:]
  assert 'encoder.layers.1.attention.k_proj.bias' in missing
  assert 'In the file but not in the model (1)' in missing
  assert 'encoder.layers.2.layer_norm.bias' in left
  assert 'layer_norm.weight: file (9,), model (24,)' in differing


@pytest.mark.parametrize(
  ('name', 'spoil', 'message'),
  [
    (MODEL, None, 'neither model.safetensors nor .*; it has config.json'),
    ('config.json', None, r'config.json does not exist. Give the directory'),
    (MODEL, lambda data: data[:1000], 'cannot be read as safetensors'),
    ('config.json', lambda data: b'{"model_type": "hubert"}', "is 'hubert'"),
    ('config.json', lambda data: data[:9], r'config.json: Expecting|Untermin'),
    (
      MODEL,
      lambda data: save({'masked_spec_embed': np.zeros(48, int)}),
      r'masked_spec_embed has type I64; parameters must be one of',
    ),
  ],
)
def test_unusable_folders_are_refused(tmp_path, name, spoil, message):
  path = save_wavlm(tmp_path, wavlm_arrays()) / name
  data = path.read_bytes()
  path.unlink()
  if spoil:
    path.write_bytes(spoil(data))
  with pytest.raises(ConvertError, match=message):
    hf_wavlm.load(tmp_path)


def write_authors_files(folder, system, save):
  """Writes random weights by `save(arrays, path)`; returns them by part."""
  rng = np.random.default_rng(0)
  parts = {part: {} for part in torch_emosphere.FILES}
  shapes = torch_emosphere.shapes(system)
  for name, shape in tensors.expected(torch_emosphere.NAMING, shapes).items():
    part, _, rest = name.partition('.')
    parts[part][rest] = rng.standard_normal(shape).astype(np.float32)
  for part, arrays in parts.items():
    save(arrays, folder / torch_emosphere.FILES[part])
  return parts


def test_the_authors_four_files(tmp_path, monkeypatch):
  # Of another format, so that it is tested without PyTorch, too.
  monkeypatch.setattr(tensors, 'open_torch', tensors.open_safetensors)
  system = EmoSphere(encoder='wavlm', wavlm=CONFIG.to_text(), width=16)
  parts = write_authors_files(tmp_path, system, save_file)

  def load(**changes):
    return torch_emosphere.load(
      tmp_path, dataclasses.replace(system, **changes)
    )

  ((params, state),) = load()
  assert params.keys() == {'encoder', 'pool', 'vad_head', 'auxiliary_head'}
  kernel = parts['region_head']['out.0.weight'].T
  found = params['auxiliary_head']['out']['kernel']
  np.testing.assert_array_equal(found, kernel)
  np.testing.assert_array_equal(state['split']['class_weights'], np.ones(8))
  (tmp_path / 'best_sev_ser.pt').unlink()
  ((params, _),) = load(region_weight='off')
  assert 'auxiliary_head' not in params
  for changes, message in (
    ({}, 'lacks best_sev_ser'),
    ({'encoder': 'logmel'}, r"encoder is 'logmel'"),
    (
      {'width': 32, 'region_weight': 'off'},
      r'pool.fc.fc.bias: file \(16,\), model \(32,\)',
    ),
  ):
    with pytest.raises(ConvertError, match=message):
      load(**changes)


def test_pytorch_file_is_read_without_running_it(tmp_path):
  torch = pytest.importorskip('torch')
  folder = save_wavlm(tmp_path, wavlm_arrays())
  _, wanted = hf_wavlm.load(folder)
  (folder / 'model.safetensors').unlink()
  path = folder / 'pytorch_model.bin'
  content = {name: torch.from_numpy(x) for name, x in wavlm_arrays().items()}
  torch.save(content, path)
  _assert_same(hf_wavlm.load(folder)[1], wanted)
  torch.save(content, path, _use_new_zipfile_serialization=False)
  _assert_same(hf_wavlm.load(folder)[1], wanted)

  class Trap:
    def __reduce__(self):
      return (folder.joinpath('ran').write_text, ('x',))

  for content, message in (
    ({'E': Trap()}, 'pytorch_model.bin is no file of tensors that can be read'),
    ({'E': {'epoch': 3}}, r'E\.epoch is a int, not a tensor'),
    ([1, 2], 'the content is a list, not a tensor or a state dict'),
  ):
    torch.save(content, path)
    with pytest.raises(ConvertError, match=message):
      hf_wavlm.load(folder)
  assert not (folder / 'ran').exists()


def test_without_pytorch_the_message_says_so(tmp_path, monkeypatch):
  path = tmp_path / 'best_pool.pt'
  path.write_bytes(b'')
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(ConvertError, match=r"pip install -e '\.\[parity\]'"):
    tensors.open_torch(path)
  with pytest.raises(ConvertError, match=r'none.pt does not exist'):
    tensors.open_torch(tmp_path / 'none.pt')


@pytest.mark.slow
def test_memory_is_one_copy_of_the_model_and_one_tensor(tmp_path):
  width = {'hidden_size': 480, 'intermediate_size': 1920}
  config = dataclasses.replace(SIZES['base'], **width)
  folder = save_wavlm(tmp_path, wavlm_arrays(config, np.float16), config)
  program = (
    'import re, sys; from jaxser.nn import hf_wavlm\n'
    "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', "
    "open('/proc/self/status').read())[1])\n"
    'config = hf_wavlm.read_config(sys.argv[1])\n'
    'hf_wavlm.expected_shapes(config); before = peak()\n'
    'hf_wavlm.load(sys.argv[1]); print(peak() - before)'
  )
  command = [sys.executable, '-c', program, str(folder)]
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  size = 4 * sum(map(math.prod, hf_wavlm.expected_shapes(config).values()))
  # The file, half as large as the model in memory, is mapped.
  assert int(done.stdout) * 1024 < 1.8 * size
