"""Every error that a user can mend; main prints these without a traceback."""

from data_prep import audio, manifest, workers
from data_prep import store as store_lib
from jaxser import checkpoints, config, convert, predictions
from jaxser.data import corpus, protocols

USER_ERRORS = (
  audio.AudioError,
  checkpoints.CheckpointError,
  config.ConfigError,
  convert.ConvertError,
  corpus.StoreError,
  manifest.CorpusError,
  predictions.PredictionsError,
  protocols.ProtocolError,
  store_lib.StoreError,
  workers.WorkerError,
)
