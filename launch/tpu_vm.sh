#!/usr/bin/env bash
# Trains on a Cloud TPU VM, of one host or a slice of many, through gcloud.
#
#   launch/tpu_vm.sh --name=jaxser --zone=us-west4-a --type=v5litepod-4 \
#       --config=configs/timnet.py --workdir=W
#   launch/tpu_vm.sh --name=jaxser --zone=us-west4-a \
#       --config=configs/emosphere.py:corpus=iemocap \
#       --config.data_dir=/mnt/share/data --workdir=/mnt/share/W
#
# All other arguments go to `python -m jaxser.main` on every host. The TPU is
# made first if --type is given; this checkout is copied and installed. On a
# slice of several hosts --workdir, and the corpus (--config.data_dir), must be
# in a folder that all of them have mounted, such as Filestore. Stopped for
# maintenance, the program saves, is started again and continues; if the TPU
# itself is taken away, make it again with the same command. Benchmarks before
# paying for one: python -m jaxser.benchmark --topology=v5e:4x4.
#
#   --name=NAME       of the TPU
#   --zone=ZONE       where it is
#   --project=ID      of Google Cloud (gcloud's current one)
#   --type=TYPE       make it, such as v5litepod-4 or v5litepod-16
#   --version=V       its runtime (v2-alpha-tpuv5-lite)
#   --spot            cheaper, and can be taken away at any time
#   --max_restarts=N  give up after so many restarts (3)
#   --dry_run         show the commands and do nothing
#   --help            show this
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"

name='' zone='' type='' version=v2-alpha-tpuv5-lite max_restarts=3
dry_run='' project=() spot=() arguments=()
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=("$1") ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --spot) spot=(--spot) ;;
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
whole --max_restarts "$max_restarts" 0
[[ -n $name && -n $zone ]] || fail "--name and --zone are needed; see --help"

tpu=(gcloud compute tpus tpu-vm)
where=(--zone="$zone" "${project[@]}")
if [[ -n $type ]]; then
  run "${tpu[@]}" create "$name" "${where[@]}" \
    --accelerator-type="$type" --version="$version" "${spot[@]}"
fi

package=jaxser.tar.gz
if [[ -z $dry_run ]]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  package=$folder/jaxser.tar.gz
fi
run tar -czf "$package" -C "$root" \
  configs data_prep jaxser launch pyproject.toml setup.cfg README.md LICENSE
run "${tpu[@]}" scp "$package" "$name:jaxser.tar.gz" "${where[@]}" --worker=all

# The runtime's own Python may be older than 3.11; uv brings one.
install='mkdir -p jaxser && tar -xzf jaxser.tar.gz -C jaxser && cd jaxser
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --allow-existing --python=3.11 .venv
python3 -m uv pip install --quiet --python=.venv -e ".[tpu]"'
run "${tpu[@]}" ssh "$name" "${where[@]}" --worker=all \
  --command="set -e; ${install//$'\n'/; }"

program=$(show launch/relaunch.sh --max_restarts="$max_restarts" -- \
  .venv/bin/python -m jaxser.main --distributed=auto "${arguments[@]}")
run "${tpu[@]}" ssh "$name" "${where[@]}" --worker=all \
  --command="cd jaxser && $program"
