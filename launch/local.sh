#!/usr/bin/env bash
# Trains in several processes on this machine, on its CPU.
#
#   launch/local.sh --processes=2 --devices=4 --config=configs/timnet.py
#
# All other arguments go to `python -m jaxser.main`. Two processes with four
# devices compute what one process with eight does: a rehearsal for a cluster,
# where the same program runs. If one is lost or SIGTERM stops them, all are
# started again and continue (see launch/relaunch.sh).
#
#   --processes=N     processes (2)
#   --devices=N       virtual devices of each (1)
#   --port=N          where process 0 listens (any free port)
#   --max_restarts=N  give up after so many restarts (3)
#   --dry_run         show the commands and do nothing
#   --help            show this
#
# $PYTHON is the interpreter (python).
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

python=${PYTHON:-python}
processes=2 devices=1 port='' max_restarts=3 dry_run='' arguments=()
while (($#)); do
  case $1 in
    --processes=*) processes=${1#*=} ;;
    --devices=*) devices=${1#*=} ;;
    --port=*) port=${1#*=} ;;
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

whole --processes "$processes" 1
whole --devices "$devices" 1
[[ -z $port ]] || whole --port "$port" 1
whole --max_restarts "$max_restarts" 0

if [[ -z $dry_run ]] && ((max_restarts > 0)); then
  exec "$here/relaunch.sh" --max_restarts="$max_restarts" -- \
    "$0" --processes="$processes" --devices="$devices" --port="$port" \
    --max_restarts=0 "${arguments[@]}"
fi

if [[ -z $port && -n $dry_run ]]; then
  port=PORT
elif [[ -z $port ]]; then
  port=$("$python" -c '
import socket
with socket.socket() as free:
  free.bind(("127.0.0.1", 0))
  print(free.getsockname()[1])')
fi
flags="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices"
join=(--coordinator="127.0.0.1:$port" --num_processes="$processes")

children=()
# shellcheck disable=SC2317  # The trap calls it.
stop() { kill -TERM "${children[@]}" 2>/dev/null || true; }
trap stop INT TERM
for ((i = 0; i < processes; i++)); do
  command=(env JAX_PLATFORMS=cpu XLA_FLAGS="$flags" "$python" -m jaxser.main
    "${arguments[@]}" "${join[@]}" --process_id="$i")
  if [[ -n $dry_run ]]; then
    show "${command[@]}"
    continue
  fi
  "${command[@]}" &
  children+=($!)
  echo "process $i: pid $!" >&2
done
if [[ -n $dry_run ]]; then
  echo "# all at once; again on ${AGAIN//|/, }, at most $max_restarts times"
  exit
fi

# A final code of any process is the code of all: the others were only lost.
verdict=0
for child in "${children[@]}"; do
  await "$child"
  if ((code == 0)) || [[ $code =~ ^($AGAIN)$ && $verdict != 0 ]]; then
    continue
  fi
  if ((verdict == 0)) || [[ $verdict =~ ^($AGAIN)$ ]]; then verdict=$code; fi
done
exit "$verdict"
