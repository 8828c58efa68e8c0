"""Training and prediction in PyTorch, as its users write them.

The batch lies on the device, images are channels-last, bfloat16 is autocast,
the optimiser is fused on GPUs. Imported only for --compare=torch.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from jaxser.benchmark import workload
from jaxser.benchmark.timing import BenchmarkError
from jaxser.systems.base import System
from jaxser.systems.dsnet import DSNet

Call = Callable[[], Any]


def build(
  config: Any,
  system: System,
  shape: Sequence[int],
  size: int,
  dtype: str,
  device: str,
  compiled: bool,
) -> tuple[Call, Call]:
  """(training step, prediction) of one batch.

  Args:
    config: of ours; the optimiser's constants and the size of micro-batches.
    system: ours.
    shape: of one utterance's features.
    size: utterances per batch.
    dtype: 'float32', or 'bfloat16' by autocast.
    device: 'cuda' or 'cpu'.
    compiled: whether torch.compile is used.

  Raises:
    BenchmarkError: if the network needs transformers, and it is missing.
  """
  if isinstance(system, DSNet):
    model, losses, scores = _dsnet(system, shape, size, device)
  else:
    model, losses, scores = _wavlm(system, shape, size, device)
  if compiled:
    losses, scores = torch.compile(losses), torch.compile(scores)
  optimizer = _optimizer(config.optimizer, model, device)
  accumulate = workload.micro_batches(config, size)

  def autocast():
    if dtype == 'float32':
      return contextlib.nullcontext()
    return torch.autocast(device, torch.bfloat16)

  def train():
    model.train()
    optimizer.zero_grad(set_to_none=True)
    for part in range(accumulate):
      with autocast():
        loss = losses(part, accumulate)
      (loss / accumulate).backward()
    optimizer.step()

  @torch.inference_mode()
  def predict():
    model.eval()
    with autocast():
      return scores()

  return train, predict


def _optimizer(
  rule: Any, model: torch.nn.Module, device: str
) -> torch.optim.Optimizer:
  kinds = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}
  return kinds[rule.name](
    [p for p in model.parameters() if p.requires_grad],
    lr=rule.learning_rate,
    betas=(rule.b1, rule.b2),
    eps=rule.eps,
    weight_decay=rule.weight_decay if rule.name == 'adamw' else 0.0,
    fused=device == 'cuda',
  )


def _dsnet(system, shape, size, device):
  from jaxser.benchmark import torch_dsnet

  model = torch_dsnet.initialise(torch_dsnet.Network(system))
  model = model.to(device, memory_format=torch.channels_last)
  generator = torch.Generator().manual_seed(0)

  def features():
    value = torch.randn(
      size, 3, system.max_frames, shape[-1], generator=generator
    )
    return value.to(device, memory_format=torch.channels_last)

  images, neutral = features(), features()
  labels = (torch.arange(size) % system.num_classes).to(device)

  def losses(part, parts):
    return sum(
      model(
        images[part::parts], neutral[part::parts], labels[part::parts]
      ).values()
    )

  return model, losses, lambda: model.scores(images)


def _wavlm(system, shape, size, device):
  try:
    from jaxser.benchmark import torch_wavlm
  except ModuleNotFoundError as error:
    raise BenchmarkError(
      f'The comparison needs transformers ({error}): pip install '
      "'jaxser[parity]', or leave out --compare=torch."
    ) from error
  model = torch_wavlm.Network(system).to(device)
  generator = torch.Generator().manual_seed(0)
  samples = torch.randn(size, shape[0], generator=generator).to(device)
  vad = torch.rand(size, 3, generator=generator).to(device)

  def losses(part, parts):
    return model.loss(samples[part::parts], vad[part::parts])

  return model, losses, lambda: model(samples)
