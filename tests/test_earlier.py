"""The number of epochs from an earlier run, and what is refused."""

import json

import pytest

from configs import timnet
from jaxser.core.config import ConfigError, to_json
from jaxser.evaluation import earlier
from jaxser.evaluation.predictions import PredictionsError
from tests import runs

STORES = {'emodb': {'fingerprint': '1fae6e85'}}
FINGERPRINTS = {'emodb': '1fae6e85'}


def write(workdir, arg='corpus=emodb', stores=STORES, selection='best_on_dev'):
  made = runs.class_predictions(selections=('last', selection))
  runs.write_run(workdir, made, environment={'stores': stores})
  config = to_json(timnet.get_config(arg))
  # Other versions have other fields.
  config['optimizer']['gone'] = 1
  (workdir / 'config.json').write_text(json.dumps(config))
  return workdir


def test_the_median_of_the_best_epochs_of_a_finished_run(tmp_path):
  config = timnet.get_config('corpus=emodb,protocol=all')
  with pytest.raises(PredictionsError, match=r'results\.json: no such file'):
    earlier.best_epoch(tmp_path, config, FINGERPRINTS)
  folder = write(tmp_path)
  assert earlier.best_epoch(folder, config, FINGERPRINTS) == 102
  results = json.loads((tmp_path / 'results.json').read_text())
  del results['selections']['best_on_dev']['per_fold'][0]
  (tmp_path / 'results.json').write_text(json.dumps(results))
  # Of 101, 102, 103, 104: the later of the middle ones.
  assert earlier.best_epoch(folder, config, FINGERPRINTS) == 103
  (folder / 'config.json').unlink()
  with pytest.raises(ConfigError, match=r'config\.json is missing'):
    earlier.best_epoch(folder, config, FINGERPRINTS)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'arg': 'corpus=savee'}, "corpus: there 'savee', now 'emodb'"),
    ({'arg': 'corpus=emodb,ablation=tcn'}, "model.ablation: there 'tcn', now"),
    (
      {'stores': {'emodb': {'fingerprint': 'ffffffff'}}},
      "dataset of emodb: there 'ffffffff', now '1fae6e85'",
    ),
    (
      {'now': {'system': 'dsnet', 'features.name': 'kaldi16k'}},
      "system: there 'timnet', now 'dsnet'.*features.name: there 'librosa22k', now",
    ),
    ({'selection': 'best_on_test'}, r'no epoch .* \(it has last, best_on_test'),
  ],
)
def test_a_run_of_something_else_is_refused(tmp_path, changes, message):
  changes = dict(changes)
  now = changes.pop('now', {})
  folder = write(tmp_path, **changes)
  config = timnet.get_config('corpus=emodb,protocol=all')
  config.update_from_flattened_dict(now)
  with pytest.raises(ConfigError, match=message) as error:
    earlier.best_epoch(folder, config, FINGERPRINTS)
  assert f'--config.epochs_from={tmp_path} ' in str(error.value)
