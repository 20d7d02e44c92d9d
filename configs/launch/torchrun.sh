#!/usr/bin/env bash
# One stage on several nodes by torchrun's agent: the same line on every node, each with its
# NODE_RANK, in the run's folder on a disk that all nodes see.
#
#   NODES=2 NODE_RANK=0 HEAD=10.0.0.1 torchrun.sh fit --config STAGE.yaml --config OVERLAY.yaml
#
# NODES      nodes of the job
# NODE_RANK  this node's number, from 0
# HEAD       name or address of node 0
# GPUS       processes per node (default 8)
# PORT       on node 0, free with the one above it (default 29500)
# PYTHON     interpreter (default python)
set -euo pipefail
: "${NODES:?how many nodes}" "${NODE_RANK:?this node, from 0}" "${HEAD:?address of node 0}"
# Without restarts: a rank that dies takes the job down, the last line names it, and the next start
# goes on from its last checkpoint with --ckpt_path last.
exec "${PYTHON:-python}" -m rlff_lightning.cli launch --nodes "$NODES" --node-rank "$NODE_RANK" \
  --head "$HEAD" --port "${PORT:-29500}" --ranks "${GPUS:-8}" -- "$@"
