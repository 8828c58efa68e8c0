"""Every error that a user can mend; main prints these without a traceback."""

from data_prep import audio, manifest, store, workers
from jaxser import (
  checkpoints,
  config,
  convert,
  distributed,
  predictions,
  weights,
)
from jaxser.data import protocols

USER_ERRORS = (
  audio.AudioError,
  checkpoints.CheckpointError,
  config.ConfigError,
  convert.ConvertError,
  distributed.DistributedError,
  manifest.CorpusError,
  predictions.PredictionsError,
  protocols.ProtocolError,
  store.StoreError,
  weights.ModelError,
  workers.WorkerError,
)
