"""DSNet in plain PyTorch: what the speed of ours is compared with.

Written from the paper's formulas as a PyTorch user would: `nn.Conv2d`,
`nn.BatchNorm2d`, `nn.MaxPool2d`, one `Adam`. Modules have the names of the
authors' checkpoints, so `jaxser.models.convert.torch_dsnet` moves weights to and fro.
Needs PyTorch (the extra `parity`), imported only when asked for.
"""

import torch
from torch import nn
from torch.nn import functional

from jaxser.systems.dsnet import DSNet


class ConvBlock(nn.Module):
  """5 x 5 convolution, BatchNorm, ReLU, 2 x 2 max pooling, dropout."""

  def __init__(self, inputs: int, channels: int, dropout: float):
    super().__init__()
    self.conv1 = nn.Conv2d(inputs, channels, 5, padding=2, bias=False)
    self.bn1 = nn.BatchNorm2d(channels)
    self.pool = nn.MaxPool2d(2)
    self.dropout = nn.Dropout(dropout)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[batch, inputs, frames, bins] -> [batch, channels, half, half]."""
    return self.dropout(self.pool(torch.relu(self.bn1(self.conv1(x)))))


class Stages(nn.Module):
  """BatchNorm per mel bin, then all stages; mean over frequency."""

  def __init__(self, channels: tuple[int, ...], bins: int, dropout: float):
    super().__init__()
    self.bn0 = nn.BatchNorm2d(bins)
    self.blocks = []
    for i, (inputs, outputs) in enumerate(
      zip((3, *channels[:-1]), channels, strict=True)
    ):
      block = ConvBlock(inputs, outputs, dropout)
      self.add_module(f'conv_block{i + 1}', block)
      self.blocks.append(block)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[batch, 3, frames, bins] -> [batch, channels, frames // 16]."""
    x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
    for block in self.blocks:
      x = block(x)
    return x.mean(3)


class AttentionPool(nn.Module):
  """Weighted mean over time of sigmoid(cla(x)), weights softmax(att(x))."""

  def __init__(self, channels: int, embedding: int):
    super().__init__()
    self.att = nn.Conv1d(channels, embedding, 1)
    self.cla = nn.Conv1d(channels, embedding, 1)
    # In the authors' checkpoints, and never called.
    self.bn_att = nn.BatchNorm1d(embedding)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[batch, channels, time] -> [batch, embedding]."""
    weight = torch.softmax(self.att(x).clamp(-10, 10), -1)
    return (weight * torch.sigmoid(self.cla(x))).sum(-1)


class Encoder(nn.Module):
  """Images to embeddings."""

  def __init__(self, system: DSNet):
    super().__init__()
    self.layer1 = Stages(system.channels, system.bins, system.encoder_dropout)
    self.layer2 = AttentionPool(system.channels[-1], system.embedding)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[batch, 3, frames, bins] -> [batch, embedding]."""
    return self.layer2(self.layer1(x))


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


class Projection(nn.Module):
  """Two layers from the embedding to one of its subspaces."""

  def __init__(self, width: int, gated: bool):
    super().__init__()
    self.layer1 = ProjectionLayer(width, width // 2, gated)
    self.layer2 = ProjectionLayer(width // 2, width, gated)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[batch, width] -> [batch, width]."""
    return self.layer2(self.layer1(x))


class Decoder(nn.Module):
  """Both subspaces to the embedding."""

  def __init__(self, width: int):
    super().__init__()
    self.linear = nn.Sequential(
      nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width)
    )

  def forward(
    self, irrelevant: torch.Tensor, relevant: torch.Tensor
  ) -> torch.Tensor:
    """Two [batch, width] -> [batch, width]."""
    return self.linear(torch.cat([irrelevant, relevant], 1))


class Classifier(nn.Module):
  """Linear, PReLU, dropout, BatchNorm, linear."""

  def __init__(self, width: int, classes: int, dropout: float):
    super().__init__()
    self.fc1 = nn.Linear(width, width)
    self.activation = nn.PReLU()
    self.dropout = nn.Dropout(dropout)
    self.bn = nn.BatchNorm1d(width)
    self.fc2 = nn.Linear(width, classes)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[batch, width] -> logits [batch, classes]."""
    return self.fc2(self.bn(self.dropout(self.activation(self.fc1(x)))))


class Network(nn.Module):
  """DSNet; in training mode `forward` gives the four losses."""

  def __init__(self, system: DSNet):
    """Builds the network of a system of variant 'dsnet'."""
    super().__init__()
    width, gated = system.embedding, system.gated_projection
    self.E = Encoder(system)
    self.C = Classifier(width, system.num_classes, system.classifier_dropout)
    self.T = Projection(width, gated)
    self.T2 = Projection(width, gated)
    self.D = Decoder(width)
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
    decoded = self.D(irrelevant, relevant)
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
    _, _, logits = self._subspaces(self.E(images))
    return torch.softmax(_wide(logits), 1)


def _wide(x: torch.Tensor) -> torch.Tensor:
  """At least float32: autocast gives bfloat16."""
  return x if x.dtype == torch.float64 else x.float()


def _unit(x: torch.Tensor) -> torch.Tensor:
  x = x - x.mean(0)
  return x / (x.norm(dim=1, keepdim=True).detach() + 1e-6)


def initialise(network: Network) -> Network:
  """Xavier-uniform convolutions without bias; linear layers as PyTorch does."""
  for module in network.modules():
    if isinstance(module, nn.Conv1d | nn.Conv2d):
      nn.init.xavier_uniform_(module.weight)
      if module.bias is not None:
        nn.init.zeros_(module.bias)
  return network
