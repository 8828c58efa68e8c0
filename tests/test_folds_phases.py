"""Trainings at once are as many as fit in every phase, not only the first."""

import types

import jax
import pytest

from jaxser.data import protocols
from jaxser.engine.folds import engine as engine_lib
from jaxser.engine.folds import memory
from tests import recorder, toys

CONFIG = {'epochs': 3, 'batch_size': 8, 'seeds': 2, 'folds_at_once': 4}


def engine(**more):
  """Four trainings whose second and third epoch are of another phase."""
  shared = toys.make_context(
    toys.Toy(early_epochs=1), {**CONFIG, **more}, bins=16
  )
  folds = protocols.make_folds(shared.source.corpus, 'speaker_independent')[:2]
  trainings = [(seed, fold) for seed in range(2) for fold in folds]
  made = engine_lib.Engine(
    shared, trainings, devices=jax.devices()[:1], side_by_side=True
  )
  return made, shared, trainings


def test_a_later_phase_whose_compiler_runs_out_decides(monkeypatch, tmp_path):
  whole, shared, trainings = engine()
  assert whole.at_once == 4
  theirs = recorder.folds(
    whole, shared, trainings, recorder.Recorder(tmp_path / 'whole')
  )
  real = engine_lib.program.program

  def program(system, optimizer, settings, shapes, *rest, phase, **options):
    function, arguments = real(
      system, optimizer, settings, shapes, *rest, phase=phase, **options
    )
    if phase == 'early' or shapes.trainings <= 2:
      return function, arguments

    def exhausted():
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')

    lowered = types.SimpleNamespace(compile=exhausted)
    return types.SimpleNamespace(lower=lambda *_: lowered), arguments

  monkeypatch.setattr(engine_lib.program, 'program', program)
  few, shared, trainings = engine()
  assert few.at_once == 2
  ours = recorder.folds(
    few, shared, trainings, recorder.Recorder(tmp_path / 'few')
  )
  recorder.check_equal(ours, theirs, 1e-6)


def test_the_phase_that_takes_most_must_fit(monkeypatch):
  needs = iter([100, 500, 100, 200])
  monkeypatch.setattr(memory, 'budget', lambda *_: 300)
  monkeypatch.setattr(memory, 'size', lambda tree: 1)
  monkeypatch.setattr(memory, 'need', lambda compiled: next(needs))
  monkeypatch.setattr(engine_lib.Engine, '_corpus_bytes', 0)
  monkeypatch.setattr(engine_lib.Engine, '_batch_bytes', 1)
  few, _, _ = engine()
  assert few.needed == 200
  assert few.at_once == 2


def test_no_phase_fits(monkeypatch):
  monkeypatch.setattr(engine_lib.Engine, '_compile', lambda self, phase: None)
  with pytest.raises(memory.DoesNotFitError, match='needs more on each device'):
    engine()
