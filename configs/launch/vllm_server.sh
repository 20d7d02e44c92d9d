#!/usr/bin/env bash
# One server of a rollout pool (ServerPoolEngine), on any node that sees the run's folder.
#
#   configs/launch/vllm_server.sh MODEL --port 8000 [--enable-lora --max-lora-rank 16] [vLLM flags]
#
# Adapters and weights are loaded while it runs, by whoever reaches its port: a private network only.
# PYTHON  interpreter (default python)
set -euo pipefail
: "${1:?the base model: a folder or hub name}"
export VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1
exec "${PYTHON:-python}" -m vllm.entrypoints.openai.api_server --model "$1" \
  --logprobs-mode processed_logprobs \
  --weight-transfer-config '{"backend": "rlff_folder"}' \
  --worker-extension-cls rlff_lightning.engines.vllm_transfer.Worker "${@:2}"
