"""DSNet in plain PyTorch and WavLM of `transformers`, trained as users would.

The batch lies on the device, images are channels-last, bfloat16 is autocast, the
optimiser is fused on GPUs. Imported only for --compare=torch.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jaxser.benchmark import programs
from jaxser.benchmark.timing import BenchmarkError, Program, lazy
from jaxser.engine.experiment import Experiment
from jaxser.models import convert
from jaxser.models.convert import torch_dsnet
from jaxser.systems.dsnet import DSNet

# What torch.compile needs.
_COMPILERS = {'cpu': ('g++', 'clang++'), 'cuda': ('gcc', 'cc', 'clang')}


def steps(
  experiment: Experiment, dtypes: Sequence[str], works: Sequence[str]
) -> tuple[list[Program], list[str]]:
  """Returns eager and compiled programs, on a GPU if there is one, and notes."""
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  # What JAX does with float32 on NVIDIA GPUs unless told otherwise.
  torch.set_float32_matmul_precision('high')
  torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  notes = [f'PyTorch {torch.__version__} on {device}.']
  names = ['eager', 'compiled']
  if not any(map(shutil.which, _COMPILERS[device])):
    needed = ' or '.join(_COMPILERS[device])
    notes.append(f'torch.compile is left out: it needs {needed}.')
    names.remove('compiled')
  size, made = experiment.config.batch_size, []

  def repeated(call):
    def run(count):
      for _ in range(count):
        call()
      if device == 'cuda':
        torch.cuda.synchronize()

    return run

  for dtype in dtypes:
    for name in names:
      calls = build(experiment, dtype, device, name == 'compiled')
      made += [
        lazy(f'PyTorch {name}', w, size, repeated(calls[w]), dtype)
        for w in works
      ]
  return made, notes


def build(
  experiment: Experiment, dtype: str, device: str, compiled: bool
) -> dict[str, Callable[[], Any]]:
  """Returns a 'training' step and a 'prediction' of one batch."""
  torch.manual_seed(0)
  make = _dsnet if isinstance(experiment.system, DSNet) else _wavlm
  parameters, loss_of, predict_all, set_mode = make(experiment, device)
  if compiled:
    loss_of, predict_all = torch.compile(loss_of), torch.compile(predict_all)
  rule, parts = experiment.config.optimizer, experiment.config.accumulate
  kinds = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}
  if rule.name not in kinds:
    raise BenchmarkError(
      f'--compare=torch is written for {" and ".join(kinds)}, not for '
      f'--config.optimizer.name={rule.name}.'
    )
  optimizer = kinds[rule.name](
    [p for p in parameters if p.requires_grad],
    lr=rule.learning_rate,
    betas=(rule.b1, rule.b2),
    eps=rule.eps,
    weight_decay=rule.weight_decay if rule.name == 'adamw' else 0.0,
    fused=device == 'cuda',
  )
  autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == 'bfloat16')

  def train():
    set_mode(True)
    optimizer.zero_grad(set_to_none=True)
    for part in range(parts):
      with autocast:
        loss = loss_of(slice(part, None, parts))
      (loss / parts).backward()
    optimizer.step()

  @torch.inference_mode()
  def predict():
    set_mode(False)
    with autocast:
      return predict_all()

  return {'training': train, 'prediction': predict}


def _dsnet(experiment: Experiment, device: str) -> tuple[Any, ...]:
  system, size = experiment.system, experiment.config.batch_size

  def put(x):
    image = x.dim() == 4
    form = torch.channels_last if image else torch.contiguous_format
    return x.to(device, memory_format=form)

  state = experiment.first_state(0, programs.fold_of(experiment))
  weights = state.params, state.model_state
  arrays = convert.to_named(torch_dsnet.NAMING, *weights)
  named = {n: put(torch.from_numpy(np.array(x))) for n, x in arrays.items()}
  for name, x in named.items():
    x.requires_grad_('running' not in name)
  shape = 2, size, 3, system.max_frames, system.bins
  images, neutral = map(put, torch.randn(shape))
  labels = (torch.arange(size) % system.num_classes).to(device)
  losses, scores = dsnet(system, named)

  def loss_of(rows):
    return sum(losses(images[rows], neutral[rows], labels[rows]).values())

  return named.values(), loss_of, lambda: scores(images), lambda train: None


def dsnet(
  system: DSNet, named: dict[str, torch.Tensor]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Returns the losses and the scores of DSNet, from the paper's formulas."""

  def of(name, *kinds):
    return [named[f'{name}.{kind}'] for kind in kinds]

  def norm(x, name, train):
    kinds = ('running_mean', 'running_var', 'weight', 'bias')
    return functional.batch_norm(x, *of(name, *kinds), training=train)

  def linear(x, name):
    return functional.linear(x, *of(name, 'weight', 'bias'))

  def encode(x, train):
    x = norm(x.transpose(1, 3), 'E.layer1.bn0', train).transpose(1, 3)
    for i in range(1, 1 + len(system.channels)):
      block = f'E.layer1.conv_block{i}'
      x = functional.conv2d(x, named[f'{block}.conv1.weight'], padding=2)
      x = functional.max_pool2d(torch.relu(norm(x, f'{block}.bn1', train)), 2)
      x = functional.dropout(x, system.encoder_dropout, train)
    x = x.mean(3)
    attention, value = (
      functional.conv1d(x, *of(f'E.layer2.{name}', 'weight', 'bias'))
      for name in ('att', 'cla')
    )
    weight = torch.softmax(attention.clamp(-10, 10), -1)
    return (weight * torch.sigmoid(value)).sum(-1)

  def project(x, name):
    for layer in (f'{name}.layer1', f'{name}.layer2'):
      if system.gated_projection:
        gate = torch.relu(linear(x, f'{layer}.attention.0'))
        x = torch.sigmoid(linear(gate, f'{layer}.attention.2')) * x + x
      x = torch.relu(linear(x, f'{layer}.fc.0'))
    return x

  def classify(embedding, train):
    irrelevant, relevant = project(embedding, 'T'), project(embedding, 'T2')
    hidden = linear(system.alpha * irrelevant + relevant, 'C.fc1')
    hidden = functional.prelu(hidden, *of('C.activation', 'weight'))
    hidden = functional.dropout(hidden, system.classifier_dropout, train)
    logits = linear(norm(hidden, 'C.bn', train), 'C.fc2')
    return irrelevant, relevant, wide(logits)

  def wide(x):
    """At least float32: autocast gives bfloat16."""
    return x if x.dtype == torch.float64 else x.float()

  def unit(x):
    x = wide(x) - wide(x).mean(0)
    return x / (x.norm(dim=1, keepdim=True).detach() + 1e-6)

  def losses(images, neutral, labels):
    embedding = encode(images, True)
    irrelevant, relevant, logits = classify(embedding, True)
    both = torch.cat([irrelevant, relevant], 1)
    decoded = linear(torch.relu(linear(both, 'D.linear.0')), 'D.linear.2')
    # Logarithms and sums of squares are taken in float32 under autocast too.
    p = torch.softmax(wide(irrelevant), 1)
    q = torch.softmax(wide(encode(neutral, True)), 1)
    log_middle = ((p + q) / 2).log()
    divergence = (p * (p.log() - log_middle) + q * (q.log() - log_middle)) / 2
    return {
      'task': functional.cross_entropy(logits, labels),
      'calibration': divergence.sum(1).mean(),
      'orthogonality': ((unit(irrelevant).T @ unit(relevant)) ** 2).mean(),
      'reconstruction': functional.mse_loss(wide(decoded), wide(embedding)),
    }

  def scores(images):
    return torch.softmax(classify(encode(images, False), False)[2], 1)

  return losses, scores


def _wavlm(experiment: Experiment, device: str) -> tuple[Any, ...]:
  """WavLM of `transformers` with random weights and a head, for speed alone.

  On the frames there is the mean and one hidden layer, less work than our style
  pooling, so that the comparison favours the other side.
  """
  try:
    import transformers
  except ModuleNotFoundError as error:
    raise BenchmarkError(
      f'The comparison needs transformers ({error}): pip install '
      "-e '.[parity]', or leave out --compare=torch."
    ) from error
  system, size = experiment.system, experiment.config.batch_size
  settings = json.loads(system.wavlm_config.to_text())
  encoder = transformers.WavLMModel(transformers.WavLMConfig(**settings))
  if system.freeze != 'none':
    encoder.freeze_feature_encoder()
  if system.remat:
    # Version 5 of transformers gave it another name.
    name = 'activation_checkpointing_enable'
    if not hasattr(encoder, name):
      name = 'gradient_checkpointing_enable'
    getattr(encoder, name)()
  head = nn.Sequential(
    nn.Linear(settings['hidden_size'], system.width),
    nn.ReLU(),
    nn.Dropout(system.head_dropout),
    nn.Linear(system.width, 3),
  )
  model = nn.ModuleList([encoder, head]).to(device)
  samples = torch.randn(size, experiment.source.max_length).to(device)
  vad = torch.rand(size, 3).to(device)

  def predict(rows=slice(None)):
    return head(encoder(samples[rows]).last_hidden_state.mean(1)).float()

  def loss_of(rows):
    """Sum over dimensions of 1 - CCC of the batch."""
    found, target = predict(rows), vad[rows]
    a, b = found - found.mean(0), target - target.mean(0)
    spread = (a * a).mean(0) + (b * b).mean(0)
    shift = (found.mean(0) - target.mean(0)) ** 2
    return (1 - 2 * (a * b).mean(0) / (spread + shift + 1e-8)).sum()

  return model.parameters(), loss_of, predict, model.train
