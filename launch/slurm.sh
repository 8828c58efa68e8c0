#!/usr/bin/env bash
# Submits a training to SLURM: one process per GPU, on one node or several.
#
#   launch/slurm.sh --nodes=2 --gpus=8 --time=24:00:00 \
#       --config=configs/timnet.py:corpus=emodb --workdir=/shared/W
#
# All other arguments go to `python -m jaxser.main`. --workdir, and the corpus
# (--config.data_dir), must be in a folder that all nodes share. Two minutes
# before its time is over, and when it is preempted, the job saves and is put
# back into the queue, where it continues. Further options of sbatch are taken
# from its own variables, such as $SBATCH_PARTITION and $SBATCH_ACCOUNT.
#
#   --nodes=N         nodes (1)
#   --gpus=N          GPUs, and so processes, on each (1); 0 runs on the CPU
#   --cpus=N          cores for each process (8)
#   --time=T          limit (24:00:00)
#   --name=NAME       of the job (jaxser)
#   --max_restarts=N  give up after so many restarts (3)
#   --dry_run         show the job and do nothing
#   --help            show this
#
# $PYTHON is the interpreter on the nodes (python).
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nodes=1 gpus=1 cpus=8 time=24:00:00 name=jaxser max_restarts=3
dry_run='' arguments=()
while (($#)); do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --gpus=*) gpus=${1#*=} ;;
    --cpus=*) cpus=${1#*=} ;;
    --time=*) time=${1#*=} ;;
    --name=*) name=${1#*=} ;;
    --max_restarts=*) max_restarts=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    --help) print_help "$0" && exit ;;
    *)
      refuse_bare "$0" "$1"
      arguments+=("$1")
      ;;
  esac
  shift
done

whole --nodes "$nodes" 1
whole --gpus "$gpus" 0
whole --cpus "$cpus" 1
whole --max_restarts "$max_restarts" 0

platform=cuda tasks=$gpus devices="#SBATCH --gpus-per-node=$gpus"
if ((gpus == 0)); then platform=cpu tasks=1 devices='# On the CPU.'; fi
program=$(show "${PYTHON:-python}" -m jaxser.main --distributed=auto \
  "${arguments[@]}")

# \$ belongs to the job, not to this script. Since SLURM 22.05 srun takes no
# --cpus-per-task from the job.
job=$(
  cat <<JOB
#!/usr/bin/env bash
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=$tasks
$devices
#SBATCH --cpus-per-task=$cpus
#SBATCH --time=$time
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
export JAX_PLATFORMS=$platform
code=0
srun --cpus-per-task=$cpus $program || code=\$?
if [[ \$code =~ ^($AGAIN)\$ ]] && ((\${SLURM_RESTART_COUNT:-0} < $max_restarts))
then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$code"
JOB
)
if [[ -n $dry_run ]]; then
  printf 'sbatch <<"JOB"\n%s\nJOB\n' "$job"
else
  sbatch <<<"$job"
fi
