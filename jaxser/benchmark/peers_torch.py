"""DSNet in plain PyTorch and WavLM of `transformers`, trained as users would.

The batch lies on the device, images are channels-last, bfloat16 is autocast, the
optimiser is fused on GPUs. Imported only for --compare=torch.
"""

import collections
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from jaxser.benchmark.timing import BenchmarkError
from jaxser.benchmark.workload import Workload
from jaxser.systems.dsnet import DSNet
from jaxser.systems.emosphere import EmoSphere


def build(
  workload: Workload, dtype: str, device: str, compiled: bool
) -> dict[str, Callable[[], Any]]:
  """Returns a 'training' step and a 'prediction' of one batch.

  Raises:
    BenchmarkError: if the network needs transformers, and it is missing; or for
      another optimizer than Adam and AdamW.
  """
  torch.manual_seed(0)
  make = _dsnet if isinstance(workload.system, DSNet) else _wavlm
  model, loss_of, predict_all = make(workload, device)
  if compiled:
    loss_of, predict_all = torch.compile(loss_of), torch.compile(predict_all)
  rule, parts = workload.config.optimizer, workload.micro_batches()
  kinds = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}
  if rule.name not in kinds:
    raise BenchmarkError(
      f'--compare=torch is written for {" and ".join(kinds)}, not for '
      f'--config.optimizer.name={rule.name}.'
    )
  optimizer = kinds[rule.name](
    [p for p in model.parameters() if p.requires_grad],
    lr=rule.learning_rate,
    betas=(rule.b1, rule.b2),
    eps=rule.eps,
    weight_decay=rule.weight_decay if rule.name == 'adamw' else 0.0,
    fused=device == 'cuda',
  )

  autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == 'bfloat16')

  def train():
    model.train()
    optimizer.zero_grad(set_to_none=True)
    for part in range(parts):
      with autocast:
        loss = loss_of(slice(part, None, parts))
      (loss / parts).backward()
    optimizer.step()

  @torch.inference_mode()
  def predict():
    model.eval()
    with autocast:
      return predict_all()

  return {'training': train, 'prediction': predict}


def _dsnet(workload: Workload, device: str) -> tuple[Any, ...]:
  system, size = workload.system, workload.size
  model = Network(system).to(device, memory_format=torch.channels_last)
  shape = 2, size, 3, system.max_frames, workload.shape[-1]
  images, neutral = (
    x.to(device, memory_format=torch.channels_last) for x in torch.randn(shape)
  )
  labels = (torch.arange(size) % system.num_classes).to(device)

  def loss_of(rows):
    return sum(model(images[rows], neutral[rows], labels[rows]).values())

  return model, loss_of, lambda: model.scores(images)


def _wavlm(workload: Workload, device: str) -> tuple[Any, ...]:
  model = WavLMRegression(workload.system).to(device)
  samples = torch.randn(workload.size, workload.shape[0]).to(device)
  vad = torch.rand(workload.size, 3).to(device)

  def loss_of(rows):
    return model.loss(samples[rows], vad[rows])

  return model, loss_of, lambda: model(samples)


def _sequence(**modules: nn.Module) -> nn.Sequential:
  return nn.Sequential(collections.OrderedDict(modules))


class Encoder(nn.Module):
  """Four convolutional stages on normalised mel bins, then attention over time."""

  def __init__(self, system: DSNet):
    super().__init__()
    self.layer1 = _sequence(bn0=nn.BatchNorm2d(system.bins))
    inputs = 3
    for i, channels in enumerate(system.channels):
      block = _sequence(
        conv1=nn.Conv2d(inputs, channels, 5, padding=2, bias=False),
        bn1=nn.BatchNorm2d(channels),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        dropout=nn.Dropout(system.encoder_dropout),
      )
      self.layer1.add_module(f'conv_block{i + 1}', block)
      inputs = channels
    self.layer2 = nn.ModuleDict(
      {
        'att': nn.Conv1d(inputs, system.embedding, 1),
        'cla': nn.Conv1d(inputs, system.embedding, 1),
        # In the authors' checkpoints, and never called.
        'bn_att': nn.BatchNorm1d(system.embedding),
      }
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[batch, 3, frames, bins] -> [batch, embedding]."""
    normalise, *blocks = self.layer1
    x = normalise(x.transpose(1, 3)).transpose(1, 3)
    for block in blocks:
      x = block(x)
    x = x.mean(3)
    weight = torch.softmax(self.layer2['att'](x).clamp(-10, 10), -1)
    return (weight * torch.sigmoid(self.layer2['cla'](x))).sum(-1)


class ProjectionLayer(nn.Module):
  """Linear and ReLU; the gate is computed only where it is used."""

  def __init__(self, inputs: int, outputs: int, gated: bool):
    super().__init__()
    self.attention = nn.Sequential(
      nn.Linear(inputs, inputs // 2),
      nn.ReLU(),
      nn.Linear(inputs // 2, inputs),
      nn.Sigmoid(),
    )
    self.fc = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())
    self.gated = gated

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[batch, inputs] -> [batch, outputs]."""
    return self.fc(self.attention(x) * x + x if self.gated else x)


class Network(nn.Module):
  """DSNet, from the paper's formulas; `forward` gives the four losses.

  Modules have the names of the authors' checkpoints, so that
  `jaxser.models.convert.torch_dsnet` moves weights to and fro.
  """

  def __init__(self, system: DSNet):
    """Builds the network of a system of variant 'dsnet'."""
    super().__init__()
    width, gated = system.embedding, system.gated_projection

    def projection():
      return _sequence(
        layer1=ProjectionLayer(width, width // 2, gated),
        layer2=ProjectionLayer(width // 2, width, gated),
      )

    self.E, self.T, self.T2 = Encoder(system), projection(), projection()
    self.C = _sequence(
      fc1=nn.Linear(width, width),
      activation=nn.PReLU(),
      dropout=nn.Dropout(system.classifier_dropout),
      bn=nn.BatchNorm1d(width),
      fc2=nn.Linear(width, system.num_classes),
    )
    self.D = _sequence(
      linear=nn.Sequential(
        nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width)
      )
    )
    self.alpha = system.alpha

  def _subspaces(self, embedding):
    irrelevant, relevant = self.T(embedding), self.T2(embedding)
    return irrelevant, relevant, self.C(self.alpha * irrelevant + relevant)

  def forward(
    self, images: torch.Tensor, neutral: torch.Tensor, labels: torch.Tensor
  ) -> dict[str, torch.Tensor]:
    """Losses by name of images and neutral [batch, 3, frames, bins]."""
    embedding = self.E(images)
    irrelevant, relevant, logits = self._subspaces(embedding)
    decoded = self.D(torch.cat([irrelevant, relevant], 1))
    # Logarithms and sums of squares are taken in float32 under autocast too.
    p = torch.softmax(_wide(irrelevant), 1)
    q = torch.softmax(_wide(self.E(neutral)), 1)
    log_middle = ((p + q) / 2).log()
    divergence = (p * (p.log() - log_middle) + q * (q.log() - log_middle)) / 2
    inner = _unit(_wide(irrelevant)).T @ _unit(_wide(relevant))
    error = (_wide(decoded) - _wide(embedding)) ** 2
    return {
      'task': functional.cross_entropy(_wide(logits), labels),
      'calibration': divergence.sum(1).mean(),
      'orthogonality': (inner**2).mean(),
      'reconstruction': error.mean(),
    }

  def scores(self, images: torch.Tensor) -> torch.Tensor:
    """Probabilities [batch, classes]."""
    return torch.softmax(_wide(self._subspaces(self.E(images))[2]), 1)


def _wide(x: torch.Tensor) -> torch.Tensor:
  """At least float32: autocast gives bfloat16."""
  return x if x.dtype == torch.float64 else x.float()


def _unit(x: torch.Tensor) -> torch.Tensor:
  x = x - x.mean(0)
  return x / (x.norm(dim=1, keepdim=True).detach() + 1e-6)


class WavLMRegression(nn.Module):
  """WavLM of `transformers` with random weights and a head, for speed alone.

  On the frames there is the mean and one hidden layer, less work than our style
  pooling, so that the comparison favours the other side.
  """

  def __init__(self, system: EmoSphere):
    """Builds it in the shape of a system, with its frozen convolutions."""
    super().__init__()
    try:
      import transformers
    except ModuleNotFoundError as error:
      raise BenchmarkError(
        f'The comparison needs transformers ({error}): pip install '
        "'jaxser[parity]', or leave out --compare=torch."
      ) from error
    settings = json.loads(system.wavlm_config.to_text())
    self.encoder = transformers.WavLMModel(transformers.WavLMConfig(**settings))
    if system.freeze != 'none':
      self.encoder.freeze_feature_encoder()
    if system.remat:
      # Version 5 of transformers gave it another name.
      name = 'activation_checkpointing_enable'
      if not hasattr(self.encoder, name):
        name = 'gradient_checkpointing_enable'
      getattr(self.encoder, name)()
    self.head = nn.Sequential(
      nn.Linear(settings['hidden_size'], system.width),
      nn.ReLU(),
      nn.Dropout(system.head_dropout),
      nn.Linear(system.width, 3),
    )

  def forward(self, samples: torch.Tensor) -> torch.Tensor:
    """[batch, samples] -> [batch, 3]."""
    frames = self.encoder(samples).last_hidden_state
    return self.head(frames.mean(1)).float()

  def loss(self, samples: torch.Tensor, vad: torch.Tensor) -> torch.Tensor:
    """Sum over dimensions of 1 - CCC of the batch."""
    found = self(samples)
    a, b = found - found.mean(0), vad - vad.mean(0)
    spread = (a * a).mean(0) + (b * b).mean(0)
    shift = (found.mean(0) - vad.mean(0)) ** 2
    return (1 - 2 * (a * b).mean(0) / (spread + shift + 1e-8)).sum()
