"""vLLM's executor of one process, on the GPU that the trainer gave to this process."""

import torch
from vllm.v1.executor.uniproc_executor import UniProcExecutor


class OnCurrentGpu(UniProcExecutor):
    """Opens vLLM's worker on the current CUDA device, where its own opens it on the first.

    The worker's rank stays 0: it is the only one of its engine, though one of several processes.
    """

    def _distributed_args(self) -> tuple[str, int, int]:
        method, rank, _ = super()._distributed_args()
        return method, rank, torch.cuda.current_device()
