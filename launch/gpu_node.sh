#!/usr/bin/env bash
# Trains on the GPUs of this machine: one process drives all of them.
#
#   launch/gpu_node.sh --config=configs/timnet.py:corpus=emodb --workdir=W
#
# All other arguments go to `python -m jaxser.main`. Preempted or killed, it is
# started again and continues (see launch/relaunch.sh). Several machines without
# a scheduler: start this on each, with the same shared --workdir and
#   --coordinator=FIRST_MACHINE:23456 --num_processes=N --process_id=0 .. N-1
#
#   --gpus=0,1        use only these (all)
#   --max_restarts=N  give up after so many restarts (3)
#   --dry_run         show the command and do nothing
#   --help            show this
#
# $PYTHON is the interpreter (python); it needs `pip install '.[gpu]'`.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

command=(env JAX_PLATFORMS=cuda)
python=${PYTHON:-python}
dry_run='' options=() arguments=()
while (($#)); do
  case $1 in
    --gpus=*) command+=(CUDA_VISIBLE_DEVICES="${1#*=}") ;;
    --max_restarts=*) options+=("$1") ;;
    --dry_run) dry_run=yes options+=("$1") ;;
    --help) print_help "$0" && exit ;;
    *)
      refuse_bare "$0" "$1"
      arguments+=("$1")
      ;;
  esac
  shift
done

# Seconds, instead of a long traceback.
look='import jax; jax.devices()'
if [[ -z $dry_run ]] &&
  ! said=$("${command[@]}" "$python" -c "$look" 2>&1 >/dev/null); then
  fail "no GPU seen (${said##*$'\n'}); pip install -e '.[gpu]', and look" \
    "whether nvidia-smi lists one. launch/local.sh trains on the CPU"
fi

exec "$here/relaunch.sh" "${options[@]}" -- \
  "${command[@]}" "$python" -m jaxser.main "${arguments[@]}"
