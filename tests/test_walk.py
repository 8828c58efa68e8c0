"""Every command of README and docs, run in an empty home as a user would.

They train small networks for an epoch of one fold, on a part of EmoDB and on
noise under the names of other corpora; otherwise they are as they stand there.
It takes minutes, so only CI does it: `python -m pytest -m walk -n 0`. Install
jaxser first, or put the checkout on PYTHONPATH.
"""

import concurrent.futures
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from data_prep import corpora
from tests import shared
from tests.test_readme import PAGES, ROOT
from tests.trees import EMOTALE_COLUMNS, emotale_table

pytestmark = pytest.mark.walk

_COMMAND = re.compile(r'^    ((?:python -m|launch/).+)$', re.MULTILINE)
# Needs openSMILE, an extra; EmoBox; a corpus that the others do not; or waits.
_NOT_HERE = re.compile(
  r'baseline\.py:corpus=(emovo|savee|ravdess)|features=(egemaps|compare)'
  r'|protocol=emobox|jaxser\.web'
)
# Tested in tests/test_export.py; hours, and libtpu.
_ELSEWHERE = ('export.md', 'scaling.md')
_QUICK = {
  'timnet': ('model.num_blocks=2',),
  'dsnet': ('model.channels=(4,8)', 'model.embedding=8', 'model.max_frames=64'),
  'emosphere': ('model.width=8', 'data.max_length=8000', 'batch_size=8'),
  'baseline': (),
}
# Asks for hardware, accounts or a whole cluster: only shown, never started.
_DRY = ('launch/gpu_node.sh', 'launch/slurm.sh', 'launch/tpu_vm.sh')
# What the commands do not prepare, but others of them need.
_PREPARED = (
  'python -m data_prep --corpus=emodb --audio_dir=DIR --features=kaldi16k',
  'python -m data_prep --corpus=emodb --audio_dir=DIR --resampler=kaiser_best_v04',
  'python -m data_prep --corpus=emodb --audio_dir=DIR --signal_length=100000',
  'python -m data_prep --corpus=ravdess --audio_dir=DIR --signal_length=100000',
  'python -m data_prep --corpus=emodb --audio_dir=DIR --features=egemaps',
  'python -m data_prep --corpus=emotale --audio_dir=DIR --features=kaldi16k',
  'python -m data_prep --corpus=msp_podcast --audio_dir=DIR --features=wave16k',
)
_NEEDS = {
  '--compare=torch': 'torch',
  '--compare=keras': 'keras',
  '--topology': 'libtpu',
  'features=egemaps': 'opensmile',
}


_ABSENT = ('EMOVO_1.zip', 'RAVDE_46.zip')


def _stages():
  """The commands by stage, each needing those before: first corpora."""
  text = '\n'.join(
    page.read_text('utf-8') for page in PAGES if page.name not in _ELSEWHERE
  )
  found = [
    part.strip()
    for line in _COMMAND.findall(text)
    for part in line.split('&&')
    if not _NOT_HERE.search(line)
  ]
  stages = {'data_prep': list(_PREPARED), 'jaxser.main': []}
  stages |= {'epochs_from': [], 'others': []}
  for command in dict.fromkeys(c for c in found if not c.startswith('pip ')):
    later = 'epochs_from' in command
    program = 'epochs_from' if later else shlex.split(command)[2]
    stages[program if program in stages else 'others'].append(command)
  return stages.values()


def _noise(path, seconds=0.7, rate=16_000):
  path.parent.mkdir(parents=True, exist_ok=True)
  seed = int.from_bytes(path.stem.encode()[-4:], 'big')
  sound = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate))
  soundfile.write(path, sound, rate)


def _part_of_emodb(folder):
  """Three recordings of every speaker and class, or what there is."""
  kept = {}
  for path in sorted(shared.require('corpora/emodb').rglob('*.wav')):
    kept.setdefault((path.name[:2], path.name[5]), []).append(path)
  (folder / 'wav').mkdir(parents=True)
  for paths in kept.values():
    for path in paths[:3]:
      (folder / 'wav' / path.name).symlink_to(path)
  return sorted((folder / 'wav').iterdir())


def _ravdess(folder):
  for name in corpora.CORPORA['ravdess'].expected:
    if int(name[-2:]) <= 4:
      _noise(folder / f'Actor_{name[-2:]}' / f'{name}.wav')


def _emotale(folder):
  folder.mkdir(parents=True)
  rng = np.random.default_rng(0)
  names = [n for n in corpora.CORPORA['emotale'].expected if n[3:6] < '008']
  columns = [name for name in EMOTALE_COLUMNS if not name.endswith('cat')]
  ratings = rng.uniform(1, 5, (len(names), len(columns))).round(1).astype(str)
  rows = [dict(zip(columns, row, strict=True)) for row in ratings]
  emotale_table(folder, dict(zip(names, rows, strict=True)))
  for name in names:
    _noise(folder / 'wav' / f'{name}.wav')


def _podcast(folder):
  rng = np.random.default_rng(1)
  lines = ['FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set']
  for i in range(60):
    name = f'MSP-PODCAST_0001_{i:04d}'
    vad = ','.join(f'{x:.2f}' for x in rng.uniform(1, 7, 3))
    split = ('Train', 'Development', 'Test1')[i % 3]
    lines.append(f'{name}.wav,{"ANHS"[i % 4]},{vad},{i % 9},Male,{split}')
    _noise(folder / 'Audios' / f'{name}.wav')
  (folder / 'Labels').mkdir()
  table = folder / 'Labels' / 'labels_consensus.csv'
  table.write_text('\n'.join(lines) + '\n')


class Walk:
  """A scratch folder with small corpora and weights, and an empty home."""

  def __init__(self, folder):
    self.folder = folder / 'checkout'
    self.home = folder / 'home'
    self.corpora = folder / 'corpora'
    self.folder.mkdir()
    self.home.mkdir()
    # Programs and recipes are those that are installed.
    for name in ('launch', 'docs'):
      (self.folder / name).symlink_to(ROOT / name)
    wavs = _part_of_emodb(self.corpora / 'emodb')
    _ravdess(self.corpora / 'ravdess')
    _emotale(self.corpora / 'emotale')
    _podcast(self.corpora / 'msp_podcast')
    weights = shared.require('weights/timnet/EMODB_46.zip')
    (self.folder / 'EMODB_46.zip').symlink_to(weights)
    sound, rate = soundfile.read(wavs[0])
    soundfile.write(self.folder / 'speech.wav', sound, rate)
    soundfile.write(self.folder / 'talk.wav', np.tile(sound, 6), rate)
    soundfile.write(self.folder / 'other.flac', sound, rate)
    (self.folder / 'folder').mkdir()
    for path in wavs[:3]:
      (self.folder / 'folder' / path.name).symlink_to(path)
    rows = [
      f'{path}\t{path.stem}\t{path.name[:2]}\t{path.name[5]}' for path in wavs
    ]
    (self.folder / 'FILE.tsv').write_text(
      '\n'.join(['path\tid\tspeaker\tlabel', *rows]) + '\n'
    )
    self.environment = {
      name: value
      for name, value in os.environ.items()
      if not name.startswith(('JAXSER_', 'JAX_COMPILATION', 'XLA_FLAGS'))
    }
    self.environment |= {'HOME': str(self.home), 'PYTHON': sys.executable}
    self.environment['XLA_FLAGS'] = '--xla_backend_optimization_level=0'

  def run(self, command):
    """Runs a command; returns the end of what it printed where it failed."""
    lacking = [
      module
      for flag, module in _NEEDS.items()
      if flag in command and not importlib.util.find_spec(module)
    ]
    # Weights that are not in the shared folder.
    lacking += [name for name in _ABSENT if name in command]
    if lacking:
      print(f'not run: {command} (needs {", ".join(lacking)})', flush=True)
      return None
    words = self.small(command)
    start = time.monotonic()
    done = subprocess.run(
      [sys.executable, *words[1:]] if words[0] == 'python' else words,
      cwd=self.folder,
      env=self.environment,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
    )
    print(f'{time.monotonic() - start:4.0f} s: {command}', flush=True)
    if done.returncode:
      printed = (done.stdout + done.stderr).strip()
      return f'{shlex.join(words)}\n  exit {done.returncode}: {printed[-1500:]}'
    return None

  def key(self, command):
    """Returns the work folder of a command, '' for none, and all the rest."""
    words = self.small(command.replace('configs/timnet.py', 'timnet'))
    workdirs = [w for w in words if w.startswith('--workdir=')]
    others = tuple(w for w in words if w not in workdirs)
    return ''.join(workdirs).removeprefix('--workdir='), others

  def small(self, command):
    """Returns the words of a command, for synthetic corpora and few steps."""
    words = shlex.split(
      command.replace('--checkpoint=W', '--checkpoint=runs/emodb')
    )
    program = words[2] if words[0] == 'python' else words[0]
    if program in _DRY:
      return [*words, '--dry_run']
    wavlm = str(shared.require('goldens/wavlm_large_style'))
    if program == 'data_prep':
      corpus = next(w[9:] for w in words if w.startswith('--corpus='))
      folder = f'--audio_dir={self.corpora / corpus}'
      given = {'--audio_dir=DIR': folder, '--weights=DIR': f'--weights={wavlm}'}
      return [*(given.get(w, w) for w in words), '--allow_incomplete']
    words = [w.replace('weights=DIR', f'weights={wavlm}') for w in words]
    if program in ('jaxser.main', 'launch/local.sh'):
      config = next(w for w in words if w.startswith('--config='))
      system = re.match(r'--config=(?:configs/)?(\w+)', config)[1]
      changes = ['epochs=1'] * ('epochs_from' not in command)
      changes += ['seeds=1', 'fold_subset=(0,)']
      if '--mode=evaluate' not in words:
        changes += _QUICK[system]
      else:
        changes.remove('fold_subset=(0,)')
      fields = tuple(f'--config.{c.partition("=")[0]}=' for c in changes)
      words = [word for word in words if not word.startswith(fields)]
      return [*words, *(f'--config.{change}' for change in changes)]
    if program == 'jaxser.tables' and '--list' not in words:
      small = 'epochs=1', 'fold_subset=(0,)', 'model.num_blocks=2'
      words = [*words, '--only=emodb-published']
      return [*words, *(f'--set={change}' for change in small)]
    if program == 'jaxser.benchmark' and '--topology' not in command:
      if '--checkpoint' in command:
        return words
      words = [*words, '--rounds=1', '--seconds=0.01', '--noceilings']
      if '--scale=folds' in command:
        words = [*words, '--counts=1', '--config.model.num_blocks=1']
      return [*words, '--batch_size=2'] if 'dsnet' in command else words
    return words


def test_readme_from_nothing_to_a_report(tmp_path):
  walk = Walk(tmp_path)
  failures = []
  for stage in _stages():
    # What differs in epochs only is the same run here.
    alike = {}
    for command in stage:
      workdir, others = walk.key(command)
      alike.setdefault(others, {})[workdir] = command
    # Half of a program's time is its start, on one core.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      firsts = [next(iter(commands.values())) for commands in alike.values()]
      failures += filter(None, pool.map(walk.run, firsts))
    for first, *workdirs in alike.values():
      for workdir in workdirs:
        # Another command may have made it, with more to say about the run.
        if not (walk.folder / workdir).exists():
          (walk.folder / workdir).symlink_to(walk.folder / first)
  assert not failures, '\n\n'.join(failures)
  found = {path.name for path in walk.folder.iterdir()}
  assert {'comparison.html', 'talk.html', 'model.stablehlo'} <= found
  for name in ('results.json', 'predictions.jsonl', 'report.html'):
    assert (walk.folder / 'runs' / 'emodb' / name).stat().st_size > 0
  assert (walk.home / '.cache' / 'jaxser').is_dir()
