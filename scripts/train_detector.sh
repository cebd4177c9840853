#!/usr/bin/env bash
# Trains a detector from a spec, evaluates it, and leaves weights for `maenas detect` and `maenas export`.
#
#   scripts/train_detector.sh SPEC [--data PATH] [--out DIR] [options of `maenas train`]
#
# Without --data: the built-in shapes, 192 pixels, with the recipe `demo`: minutes on a CPU for a small spec.
# Killed or interrupted, the same command with --resume goes on. For several GPUs set GPUS=8.
set -euo pipefail

if [[ $# -eq 0 || $1 == -* ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
spec=$1
shift
data=shapes
out=runs/$(basename "$spec" .json)
options=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --data) data=${2:?--data needs a path}; shift 2 ;;
    --out) out=${2:?--out needs a folder}; shift 2 ;;
    *) options+=("$1"); shift ;;
  esac
done
if ! command -v maenas >/dev/null; then  # the environment that make has made, not activated
  PATH=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH
fi
maenas=(maenas)
if [[ ${GPUS:-1} -gt 1 ]]; then
  maenas=(torchrun --nproc-per-node "$GPUS" -m maenas)
fi

"${maenas[@]}" train "$spec" --data "$data" --out "$out" ${options[@]+"${options[@]}"}
maenas eval "$out/weights.safetensors" --data "$data" --plots "$out/plots"
