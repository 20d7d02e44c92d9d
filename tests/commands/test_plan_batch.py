from typing import Any

from transformers import Qwen2Config

from rlff_lightning.commands.plan_batch import sharing_of
from rlff_lightning.commands.plan_model import PlannedModel


def model(**settings: Any) -> PlannedModel:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    shape = Qwen2Config(vocab_size=64, num_hidden_layers=4, **sizes, **settings)
    return PlannedModel(name="some", base="some", architecture=shape)


def test_prompts_are_not_shared_where_any_layer_slides_a_window() -> None:
    assert sharing_of(model(), is_trained=True) == "shared"
    # The upper two of four layers.
    sliding = model(use_sliding_window=True, sliding_window=16, max_window_layers=2)
    assert sharing_of(sliding, is_trained=True) == "padded"


def test_dropout_of_attention_keeps_a_model_from_sharing_while_it_is_trained() -> None:
    dropping = model(attention_dropout=0.1)
    assert sharing_of(dropping, is_trained=True) == "padded"
    assert sharing_of(dropping, is_trained=False) == "shared"
