"""An engine may begin with an adapter: a trained LoRA policy is played like any model."""

from pathlib import Path

import pytest

from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.errors import UserError


def test_an_adapter_needs_an_engine_that_serves_them(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    engine = VLLMEngine(str(tmp_path))
    with pytest.raises(UserError, match="enable_lora must be true to serve"):
        engine.logps([[1]], [[2]])
