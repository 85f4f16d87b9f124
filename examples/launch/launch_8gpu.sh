#!/usr/bin/env bash
# Eight GPUs of one host, as 8gpu.json says.
# usage: launch_8gpu.sh CKPT [flags of wan_t2v]
set -euo pipefail
ckpt=${1:?usage: $0 CKPT [flags of wan_t2v]}
shift
here=$(dirname "$0")
PATH=$PATH:$here/../../build/bin
export WANPAR_PROMPT=${WANPAR_PROMPT:-A red fox in the snow}  # --prompt goes before it
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}

wanrun -n 8 -- wan_check --ckpt_dir "$ckpt"
exec wanrun -n 8 -- wan_t2v --ckpt_dir "$ckpt" --config "$here/8gpu.json" "$@"
