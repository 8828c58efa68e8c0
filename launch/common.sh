# What the scripts of this folder share; sourced by them.
# shellcheck shell=bash

# Codes that ask to be run again, from the last checkpoint:
#   143  stopped by SIGTERM (preempted), saved
#   75   another process of the run was lost
#   134  likewise, where JAX's coordination service ended the process first
#   137  killed (SIGKILL)
# Others are final; above all 2, a mistake in the command or its data.
# shellcheck disable=SC2034
AGAIN='143|75|134|137'

# Prints a command so that it can be pasted into a shell.
show() {
  local word line='' quote="'\\''"
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      line+="$word "
    else
      line+="'${word//\'/$quote}' "
    fi
  done
  printf '%s\n' "${line% }"
}

# Runs a command, or only shows it under --dry_run.
run() {
  if [[ -n ${dry_run:-} ]]; then show "$@"; else "$@"; fi
}

# shellcheck disable=SC2034
# Sets `code` to the exit code of a child, whatever signals come meanwhile.
await() {
  local again
  while :; do
    code=0
    wait "$1" || code=$?
    kill -0 "$1" 2>/dev/null || break
  done
  # A signal may have ended the wait just before the child ended.
  again=0
  wait "$1" 2>/dev/null || again=$?
  if ((again != 127)); then code=$again; fi
}

# The comment block at the top of a script is its help.
print_help() {
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$1"
}

fail() {
  echo "Error: $*" >&2
  exit 2
}

# Ends with a message unless an option's value is a whole number, and at least
# the least one.
whole() {
  if [[ ! $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < $3)); then
    fail "$1=$2 must be a whole number, at least $3; see --help"
  fi
}

# Ends with a message if an argument is an option of the script without its
# value, as in "--nodes 2". The options are those of its help.
refuse_bare() {
  local options
  options=$(sed -n 's/^#   \(--[a-z_]*\)=[^ ]*  .*/\1/p' "$1")
  if grep -qxF -e "$2" <<<"$options"; then
    fail "$2 needs its value after =, as in $2=VALUE; see --help"
  fi
}
