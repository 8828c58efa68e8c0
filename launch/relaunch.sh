#!/usr/bin/env bash
# Runs a command, and again as long as it ends with a code that asks for it.
#
#   launch/relaunch.sh [--max_restarts=3] -- COMMAND [ARGUMENT...]
#
# Codes that ask for it: 143 (stopped by SIGTERM: preempted; the position is
# saved), 75 and 134 (another process of the run was lost), 137 (killed). All
# others are final: 0, 2 (a mistake in the command or its data), 130 (Ctrl-C).
#
# Ctrl-C or SIGTERM to this script stop the command, which saves, and end it.
#
#   --max_restarts=N  give up after so many restarts, with the last code
#   --dry_run         show the command and do nothing
#   --help            show this
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

max_restarts=3
while (($#)); do
  case $1 in
    --max_restarts=*) max_restarts=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    --help) print_help "$0" && exit ;;
    --) shift && break ;;
    *)
      refuse_bare "$0" "$1"
      fail "unexpected $1; see $0 --help"
      ;;
  esac
  shift
done
whole --max_restarts "$max_restarts" 0
(($#)) || fail "no command; see $0 --help"
if [[ -n ${dry_run:-} ]]; then
  show "$@"
  echo "# and again on exit code ${AGAIN//|/, }, at most $max_restarts times"
  exit
fi

child='' stopped=''
stop() {
  stopped=yes
  if [[ -n $child ]]; then kill -TERM "$child" 2>/dev/null || true; fi
}
trap stop INT TERM

for ((restart = 0; ; restart++)); do
  "$@" &
  child=$!
  # Asked to stop while no command was there to be told.
  [[ -z $stopped ]] || stop
  await "$child"
  if [[ -n $stopped || ! $code =~ ^($AGAIN)$ ]]; then exit "$code"; fi
  if ((restart >= max_restarts)); then
    echo "Ended with $code after $restart restarts; giving up." >&2
    exit "$code"
  fi
  echo "Ended with $code; restart $((restart + 1)) of $max_restarts." >&2
done
