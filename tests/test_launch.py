"""launch/: what the scripts would do, and what relaunch.sh does."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / 'launch').glob('*.sh'))
# A value that a shell would take apart.
AWKWARD = ['--config=configs/timnet.py', '--config.fold_subset=(0, 1)']
QUOTED = "--config=configs/timnet.py '--config.fold_subset=(0, 1)'"


def script(path, text):
  """Writes a program that bash runs."""
  path.write_text(f'#!/usr/bin/env bash\n{text}\n')
  path.chmod(0o755)
  return path


def launch(name, *arguments, **environment):
  return subprocess.run(
    [ROOT / 'launch' / name, *arguments],
    env={'PATH': os.environ['PATH'], **environment},
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def dry(name, *arguments, **environment):
  done = launch(name, '--dry_run', *arguments, *AWKWARD, **environment)
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()


def test_local_starts_one_process_each_on_one_port():
  given = '--processes=2', '--devices=4', '--port=23456'
  *lines, last = dry('local.sh', *given, PYTHON='py')
  assert lines == [
    'env JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 '
    f'py -m jaxser.main {QUOTED} --coordinator=127.0.0.1:23456 '
    f'--num_processes=2 --process_id={i}'
    for i in (0, 1)
  ]
  assert last == '# all at once; again on 143, 75, 134, 137, at most 3 times'
  line = dry('local.sh', '--processes=1', XLA_FLAGS='--mine=1 --b')[0]
  assert "'XLA_FLAGS=--mine=1 --b --xla_force_host_platform" in line


def test_gpu_node_runs_one_process_again_and_again():
  given = '--gpus=0,1', '--max_restarts=7'
  command, note = dry('gpu_node.sh', *given, PYTHON='py')
  start = 'env JAX_PLATFORMS=cuda CUDA_VISIBLE_DEVICES=0,1 py -m jaxser.main'
  assert command == f'{start} {QUOTED}'
  assert note == '# and again on exit code 143, 75, 134, 137, at most 7 times'
  # Options of the program may stand apart from their values.
  apart = ('--coordinator', 'h:1', '--workdir', 'W')
  line = dry('gpu_node.sh', *apart, PYTHON='py')[0]
  assert '--coordinator h:1 --workdir W' in line


def test_gpu_node_says_that_there_is_no_gpu():
  done = launch('gpu_node.sh', '--gpus=-1', *AWKWARD, PYTHON=sys.executable)
  assert (done.returncode, done.stdout) == (2, '')
  said = r"Error: no GPU seen \(.*pip install -e '\.\[gpu\]'.*\n"
  assert re.fullmatch(said, done.stderr)


@pytest.mark.parametrize(
  ('name', 'option', 'message'),
  [
    ('local.sh', '--processes=08', '--processes=08 must be a whole number'),
    ('local.sh', '--devices=', '--devices= must be a whole number, at least 1'),
    ('slurm.sh', '--gpus=all', '--gpus=all must be a whole number, at least 0'),
    ('gpu_node.sh', '--max_restarts=x', '--max_restarts=x must be'),
    ('relaunch.sh', '--max_restarts=-1', '--max_restarts=-1 must be'),
    ('slurm.sh', '--nodes', '--nodes needs its value after =, as in'),
    ('tpu_vm.sh', '--zone', '--zone needs its value'),
    ('tpu_vm.sh', '--zone=z', '--name and --zone are needed'),
  ],
)
def test_a_mistyped_option_is_refused_before_anything_starts(
  name, option, message
):
  rest = ['--', 'true'] if name == 'relaunch.sh' else ['2', *AWKWARD]
  done = launch(name, '--dry_run', option, *rest)
  assert (done.returncode, done.stdout) == (2, '')
  assert message in done.stderr
  assert done.stderr.count('\n') == 1
  assert '--help' in done.stderr


def test_slurm_has_a_process_per_gpu_saves_and_goes_back_into_the_queue():
  lines = dry('slurm.sh', '--nodes=2', '--gpus=8', '--time=1:00:00')
  asked = 'nodes=2 ntasks-per-node=8 gpus-per-node=8 time=1:00:00'
  wanted = {f'#SBATCH --{option}' for option in asked.split()}
  wanted |= {'#SBATCH --signal=TERM@120', '#SBATCH --requeue'}
  wanted |= {'export JAX_PLATFORMS=cuda', '  scontrol requeue "$SLURM_JOB_ID"'}
  program = f'python -m jaxser.main --distributed=auto {QUOTED}'
  wanted.add(f'srun --cpus-per-task=8 {program} || code=$?')
  assert wanted <= {*lines}
  assert lines[0] == 'sbatch <<"JOB"'
  few = dry('slurm.sh', '--cpus=3')
  assert '#SBATCH --cpus-per-task=3' in few
  assert any(line.startswith('srun --cpus-per-task=3 ') for line in few)
  alone = dry('slurm.sh', '--gpus=0')
  assert {'export JAX_PLATFORMS=cpu', '#SBATCH --ntasks-per-node=1'} <= {*alone}
  assert '--gpus-per-node' not in ''.join(alone)


@pytest.mark.parametrize(
  ('code', 'restarts', 'requeued'),
  [(143, 0, True), (75, 2, True), (143, 3, False), (2, 0, False)],
)
def test_the_slurm_job_requeues_itself(tmp_path, code, restarts, requeued):
  """The job that sbatch would get, run with stand-ins for srun and scontrol."""
  script(tmp_path / 'sbatch', 'cat > "$OUT/job"')
  script(tmp_path / 'srun', f'exit {code}')
  script(tmp_path / 'scontrol', 'echo "$@" > "$OUT/requeued"')
  path = f'{tmp_path}:{os.environ["PATH"]}'
  environment = {'PATH': path, 'OUT': str(tmp_path), 'SLURM_JOB_ID': '17'}
  environment['SLURM_RESTART_COUNT'] = str(restarts)
  assert launch('slurm.sh', *AWKWARD, **environment).returncode == 0
  done = subprocess.run(['bash', tmp_path / 'job'], env=environment)
  assert done.returncode == code
  assert (tmp_path / 'requeued').exists() == requeued
  if requeued:
    assert (tmp_path / 'requeued').read_text() == 'requeue 17\n'


def test_tpu_vm_makes_copies_installs_and_runs_on_all_hosts():
  where = ('--name=n', '--zone=z', '--project=p')
  lines = dry('tpu_vm.sh', *where, '--type=v5litepod-16', '--spot')
  gcloud = 'gcloud compute tpus tpu-vm'
  assert lines[0] == (
    f'{gcloud} create n --zone=z --project=p --accelerator-type=v5litepod-16 '
    '--version=v2-alpha-tpuv5-lite --spot'
  )
  assert lines[1].startswith('tar -czf jaxser.tar.gz ')
  words = lines[1].split()
  for name in words[words.index('-C') + 2 :]:
    assert (ROOT / name).exists(), name
  assert lines[2] == (
    f'{gcloud} scp jaxser.tar.gz n:jaxser.tar.gz --zone=z --project=p --worker=all'
  )
  assert 'pip install --quiet --python=.venv -e ".[tpu]"\'' in lines[3]
  last = lines[4].replace("'\\''", '"')
  assert last == (
    f'{gcloud} ssh n --zone=z --project=p --worker=all '
    "'--command=cd jaxser && launch/relaunch.sh --max_restarts=3 -- "
    '.venv/bin/python -m jaxser.main --distributed=auto '
    '--config=configs/timnet.py "--config.fold_subset=(0, 1)"\''
  )
  assert len(dry('tpu_vm.sh', *where)) == 4  # The TPU is there already.


@pytest.mark.parametrize(
  'name', [path.name for path in SCRIPTS if path.name != 'common.sh']
)
def test_help_names_every_option(name):
  done = launch(name, '--help')
  assert done.returncode == 0
  for text in (f'launch/{name}', '--dry_run', '--max_restarts=N', '--help'):
    assert text in done.stdout


@pytest.mark.parametrize(
  ('codes', 'end', 'runs'),
  [
    ('143 75 134 0', 0, 4),
    ('137 143 143 143 143', 143, 4),
    ('143 2', 2, 2),
    ('1', 1, 1),
    ('130', 130, 1),
  ],
)
def test_relaunch_only_where_it_helps(tmp_path, codes, end, runs):
  # Ends with the codes it is given, one after the other.
  program = script(
    tmp_path / 'program',
    f'cd {tmp_path}\necho run >> runs\ncodes=("$@")\n'
    'exit "${codes[$(wc -l < runs) - 1]}"',
  )
  given = '--max_restarts=3', '--', program, *codes.split()
  done = launch('relaunch.sh', *given)
  assert done.returncode == end
  assert (tmp_path / 'runs').read_text().count('run') == runs
  assert done.stderr.count('Ended with') == max(runs - 1, 0) + (end == 143)


def test_sigterm_to_the_launcher_stops_the_program_for_good(tmp_path):
  program = script(
    tmp_path / 'program',
    f'trap "echo saved >> {tmp_path}/runs; exit 143" TERM\n'
    f'echo run >> {tmp_path}/runs\nwhile true; do sleep 0.05; done',
  )
  command = [ROOT / 'launch' / 'relaunch.sh', '--', program]
  process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
  while not (tmp_path / 'runs').exists():
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate(timeout=30)
  assert (process.returncode, errors) == (143, '')
  assert (tmp_path / 'runs').read_text() == 'run\nsaved\n'


@pytest.mark.parametrize(
  ('codes', 'end'), [('0 0', 0), ('2 134', 2), ('134 1', 1), ('143 143', 143)]
)
def test_the_code_of_all_local_processes(tmp_path, codes, end):
  python = script(
    tmp_path / 'python',
    f'codes=({codes})\nfor word in "$@"; do last=$word; done\n'
    'exit "${codes[${last#--process_id=}]}"',
  )
  given = '--max_restarts=0', '--port=1', *AWKWARD
  done = launch('local.sh', *given, PYTHON=str(python))
  assert done.returncode == end, done.stderr


@pytest.mark.skipif(not shutil.which('shellcheck'), reason='needs shellcheck')
def test_shellcheck_has_no_complaint():
  subprocess.run(['shellcheck', '-x', *SCRIPTS], cwd=ROOT, check=True)
