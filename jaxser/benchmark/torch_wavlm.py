"""WavLM of `transformers` with a regression head, for speed alone.

Random weights from a configuration; nothing is downloaded. On the frames there
is the mean and one hidden layer, less work than our style pooling, so that the
comparison favours the other side.
"""

import json

import torch
import transformers
from torch import nn

from jaxser.systems.emosphere import EmoSphere


class Network(nn.Module):
  """Waveforms to valence, arousal and dominance."""

  def __init__(self, system: EmoSphere):
    """Builds it in the shape of a system, with its frozen convolutions."""
    super().__init__()
    settings = json.loads(system.wavlm_config.to_text())
    self.encoder = transformers.WavLMModel(transformers.WavLMConfig(**settings))
    if system.freeze != 'none':
      self.encoder.freeze_feature_encoder()
    if system.remat:
      # Its name since version 5.
      enable = getattr(
        self.encoder, 'activation_checkpointing_enable', None
      ) or (self.encoder.gradient_checkpointing_enable)
      enable()
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
