from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from rlff_lightning.models import cpu_linear
from rlff_lightning.models.cpu_linear import CPULinear, CPULoraLinear, use_cpu_linear


def adapted(**settings: Any) -> Any:
    torch.manual_seed(0)
    model = get_peft_model(
        nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4, bias=False)),
        LoraConfig(r=2, lora_alpha=3, target_modules=["0", "2"], **settings),
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    return model


def outcome(model: Any) -> list[Tensor]:
    rows = torch.linspace(-1, 2, 40).view(5, 8).requires_grad_()
    model.zero_grad()
    result = model(rows)
    result.square().sum().backward()
    grads = [weight.grad.clone() for weight in model.parameters() if weight.requires_grad]
    return [result.detach(), rows.grad, *grads]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    plain = cpu_linear.low_rank_linear

    def noted(*args: Any) -> Tensor:
        found.append(args[-1])
        return plain(*args)

    monkeypatch.setattr(cpu_linear, "low_rank_linear", noted)
    return found


def test_a_plain_adapter_is_computed_as_one_and_to_the_same(calls: list[float]) -> None:
    expected, model = outcome(adapted()), adapted()
    use_cpu_linear(model)
    kinds = [type(m) for m in model.modules() if isinstance(m, CPULinear | CPULoraLinear)]
    assert kinds.count(CPULoraLinear) == 2
    for a, b in zip(outcome(model), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert calls == [1.5, 1.5]


@pytest.mark.parametrize(
    "settings", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}]
)
def test_what_does_more_is_left_to_peft(calls: list[float], settings: dict[str, Any]) -> None:
    expected, model = adapted(**settings).eval(), adapted(**settings).eval()
    use_cpu_linear(model)
    for a, b in zip(outcome(model), outcome(expected), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert not calls


def test_an_adapter_that_is_off_merged_or_one_of_two_is_left_to_peft(calls: list[float]) -> None:
    model = adapted()
    use_cpu_linear(model)
    rows = torch.randn(3, 8)
    with model.disable_adapter():
        model(rows)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["0", "2"]))
    model.base_model.set_adapter(["default", "other"])
    model(rows)
    model.base_model.set_adapter("default")
    plain = model(rows)
    assert calls == [1.5, 1.5]
    model.merge_adapter()
    torch.testing.assert_close(model(rows), plain, atol=1e-5, rtol=1e-5)
    assert calls == [1.5, 1.5]


def test_a_bias_that_trains_is_left_to_peft(calls: list[float]) -> None:
    expected, model = outcome(adapted(bias="lora_only")), adapted(bias="lora_only")
    use_cpu_linear(model)
    for a, b in zip(outcome(model), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert len(calls) == 1  # of the layer without a bias


def test_another_type_is_left_to_peft(calls: list[float]) -> None:
    model = adapted()
    use_cpu_linear(model)
    model.bfloat16()(torch.randn(3, 8).bfloat16())
    assert not calls
