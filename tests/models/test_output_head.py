import re
from pathlib import Path

import pytest
import transformers
from transformers import AutoModelForCausalLM, FalconH1Config, RecurrentGemmaConfig

from rlff_lightning.errors import UserError
from rlff_lightning.models.output_head import _LOGIT_CHANGES, output_head

SMALL = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
MAMBA = {"mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 8}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


def falcon(multiplier: float) -> FalconH1Config:
    return FalconH1Config(**SMALL, **HEADS, **MAMBA, lm_head_multiplier=multiplier)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (falcon(0.5), "lm_head_multiplier=0.5"),
        (RecurrentGemmaConfig(**SMALL, **HEADS, lru_width=16), "logits_soft_cap=30.0"),
    ],
    ids=["FalconH1", "RecurrentGemma"],
)
def test_models_that_alter_their_heads_logits_are_refused(config: object, name: str) -> None:
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UserError, match=rf"changes its logits by config.{name}"):
        output_head(model)


def test_a_multiplier_of_one_alters_nothing() -> None:
    model = AutoModelForCausalLM.from_config(falcon(1.0))
    assert output_head(model) is model.get_output_embeddings()


def test_every_way_in_which_transformers_alters_logits_is_known() -> None:
    folder = Path(transformers.__file__).parent / "models"
    # What stands between the head's call and the loss: logits times, over, within or part of
    # something.
    called = re.compile(
        r"logits = self\.lm_head\([^\n]*\)(.*?)\n +(?:loss = |if labels|return )", re.DOTALL
    )
    altered = re.compile(r"[*/] *[\w.]|tanh|logits\[")
    # Chameleon is no text model; ProphetNet's head gives several tokens' logits.
    others = {"chameleon", "prophetnet"}
    found = {
        file.parent.name: behind
        for file in sorted(folder.glob("*/modeling_*.py"))
        if file.parent.name not in others
        for behind in called.findall(file.read_text())
        if altered.search(re.sub(r"#[^\n]*", "", behind))
    }
    assert {"cohere", "falcon_h1", "gemma2", "granite", "inkling", "recurrent_gemma"} <= set(found)
    unknown = {
        name: behind
        for name, behind in found.items()
        if not any(setting in behind for setting in _LOGIT_CHANGES)
    }
    assert unknown == {}
