"""Start an engine where nothing ran before, and print what it sampled and what it left changed."""

import json
import os
import random
import sys

import numpy as np
import torch

from rlff_lightning.engines.base import Sampling
from rlff_lightning.engines.vllm import VLLMEngine


def process_state() -> dict[str, object]:
    own = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")}
    return {
        "torch rng": torch.get_rng_state().tolist(),
        "numpy rng": np.random.get_state()[1].tolist(),
        "python rng": list(random.getstate()[1]),
        "threads": torch.get_num_threads(),
        "threads can be set": torch.set_num_threads.__module__,
        "dtype": str(torch.get_default_dtype()),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "environment": own,
    }


request = json.load(sys.stdin)
engine = VLLMEngine(request["folder"], **request["settings"])
os.environ["WORLD_SIZE"] = "2"
try:
    engine.logps([[1]], [[2]])
except RuntimeError as error:
    refusal = str(error)
del os.environ["WORLD_SIZE"]

before = process_state()
completions = engine.generate(request["prompts"], Sampling(**request["sampling"]), request["seeds"])
after = process_state()
result = {
    "tokens": [c.token_ids for c in completions],
    "logps": [c.logps for c in completions],
    "refusal": refusal,
    "changed": [name for name in before if before[name] != after[name]],
}
engine.close()
print("RESULT" + json.dumps(result))  # noqa: T201
