#!/usr/bin/env bash
# All weights sharded over the ranks (FSDP): for a model that does not fit into one GPU.
# usage: run_multiGPU_example.sh CKPT [num_gpus] [flags of wan_t2v]
set -euo pipefail
ckpt=${1:?usage: $0 CKPT [num_gpus] [flags of wan_t2v]}
ranks=${2:-2}
shift $(($# < 2 ? $# : 2))
PATH=$PATH:$(dirname "$0")/../../build/bin
export WANPAR_PROMPT=${WANPAR_PROMPT:-A red fox in the snow}  # --prompt goes before it

wanrun -n "$ranks" -- wan_check --ckpt_dir "$ckpt"
exec wanrun -n "$ranks" -- wan_t2v --ckpt_dir "$ckpt" --t5_fsdp --dit_fsdp "$@"
