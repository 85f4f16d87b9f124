#!/usr/bin/env bash
# The tokens of one video shared by all ranks: by heads where those are enough, and by a ring (2 x 2 of four).
# usage: run_sequence_parallel_example.sh CKPT [num_gpus] [flags of wan_t2v]
set -euo pipefail
ckpt=${1:?usage: $0 CKPT [num_gpus] [flags of wan_t2v]}
ranks=${2:-4}
shift $(($# < 2 ? $# : 2))
PATH=$PATH:$(dirname "$0")/../../build/bin
export WANPAR_PROMPT=${WANPAR_PROMPT:-A red fox in the snow}  # --prompt goes before it
if [ "$ranks" = 4 ]; then
  export WANPAR_ULYSSES_SIZE=2 WANPAR_RING_SIZE=2
fi

wanrun -n "$ranks" -- wan_check --ckpt_dir "$ckpt"
exec wanrun -n "$ranks" -- wan_t2v --ckpt_dir "$ckpt" --cfg_size 1 "$@"
