"""Log-probabilities of chosen tokens in whole sequences, for supervised training."""

from torch import Tensor, nn

from rlff_lightning.functional.log_probs import token_logps
from rlff_lightning.models.output_head import head_replaced, output_head


def sequence_logps(model: nn.Module, input_ids: Tensor, mask: Tensor, counted: Tensor) -> Tensor:
    """Score the counted tokens of right-padded sequences, each given all before it.

    Args:
        model: A causal language model of transformers, or a PEFT model around one.
        input_ids: ``(B, L)``.
        mask: ``True`` at real tokens, ``(B, L)``.
        counted: ``True`` at tokens to score, ``(B, L)``; the first of a row is never scored.

    Returns:
        Log-probabilities in nats of the counted tokens, row by row, ``(M,)``.
    """
    head = output_head(model)
    tokens = input_ids[:, 1:][counted[:, 1:]]
    # The state before a token predicts it: of the flattened batch, the one before its index.
    predictors = nn.functional.pad(counted[:, 1:], (1, 0)).flatten().nonzero()[:, 0] - 1

    def score(hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, 1).index_select(0, predictors)
        return token_logps(rows, head.weight, tokens, bias=head.bias).logps

    with head_replaced(head, score):
        logps: Tensor = model(
            input_ids=input_ids, attention_mask=mask.long(), use_cache=False
        ).logits
    return logps
