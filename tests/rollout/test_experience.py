import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlff_lightning.engines.base import Completion
from rlff_lightning.models.group_logps import group_logps
from rlff_lightning.rollout.experience import collate

EOS = 0
"""Also what fills a batch up."""


def completion(*token_ids: int) -> Completion:
    logps = tuple(-1.0 for _ in token_ids)
    return Completion(token_ids=token_ids, logps=logps, text="", is_finished=token_ids[-1] == EOS)


def test_an_end_token_that_is_also_padding_trains_once_and_padding_never() -> None:
    prompts = [[5, EOS, 6, 7], [8, 9]]
    groups = [[completion(3, 4, EOS), completion(EOS)], [completion(1, 2), completion(3, EOS)]]
    batch = collate(prompts, groups, torch.zeros(4), torch.tensor(8))
    lengths = [3, 1, 2, 2]
    assert batch.completion_mask.tolist() == [[t < n for t in range(3)] for n in lengths]
    assert batch.prompt_mask.tolist() == [[True] * 4, [False, False, True, True]]

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=EOS,
        pad_token_id=EOS,
        initializer_range=0.3,
    )
    model = Qwen2ForCausalLM(config).eval()
    for sharing in ("shared", "padded"):
        with torch.no_grad():
            found = group_logps(
                model,
                batch.prompt_ids,
                batch.prompt_mask,
                batch.completion_ids,
                batch.completion_mask,
                sharing=sharing,  # type: ignore[arg-type]
            ).logps
        completions = [one for group in groups for one in group]
        for row, (prompt, one) in enumerate(
            zip([prompts[0]] * 2 + [prompts[1]] * 2, completions, strict=True)
        ):
            # As the model has it for this row alone, where nothing is filled up.
            ids = [*prompt, *one.token_ids]
            with torch.no_grad():
                alone = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            expected = [alone[t - 1, ids[t]].item() for t in range(len(prompt), len(ids))]
            torch.testing.assert_close(
                found[row, : len(expected)], torch.tensor(expected), atol=1e-5, rtol=0
            )
