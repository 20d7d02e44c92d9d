"""Estimate what a layer costs with packed groups and with padded rows, to take the cheaper."""

from transformers import PretrainedConfig

from rlff_lightning.models.prefix_attention import PrefixLayout, Span

_CALL_COST = {"cpu": 7e5, "cuda": 5e9}
"""What one more attention call costs, in the multiply-adds that the device does meanwhile.

Measured on one CPU core (80 us, forward and backward); reckoned for a GPU (launches of 80 us),
which takes all stretches in two calls.
"""


def is_sharing_cheaper(
    config: PretrainedConfig, layout: PrefixLayout, *, num_rows: int, width: int, device: str
) -> bool:
    """Compare one layer's cost of a packed row with that of ``num_rows`` rows of ``width`` tokens.

    A token costs the layer's weights, a pair of attending tokens twice the width of the hidden
    state, and on a CPU each stretch of the packed row an attention call.

    Args:
        config: The language model's text configuration.
        layout: The packed row.
        num_rows: Rows of the padded batch.
        width: Tokens of each padded row, padding included.
        device: Type of device that computes, e.g. ``cpu``.
    """
    hidden: int = config.hidden_size
    # Named otherwise, or not at all, it is about this in every decoder.
    inner: int = getattr(config, "intermediate_size", None) or 4 * hidden
    per_token: int = hidden * (4 * hidden + 3 * inner)
    num_tokens = sum(map(_length, layout.sequences))
    num_pairs = sum(_length(span) ** 2 / 2 for span in layout.sequences)
    num_pairs += sum(_length(replies) * _length(prompt) for replies, prompt in layout.groups)
    num_calls = len(layout.sequences) + len(layout.groups) if device == "cpu" else 2
    call_cost = _CALL_COST["cpu" if device == "cpu" else "cuda"]
    shared = num_tokens * per_token + num_pairs * 2 * hidden + num_calls * call_cost
    padded = num_rows * width * (per_token + width * 2 * hidden) + call_cost
    return shared < padded


def _length(span: Span) -> int:
    return span[1] - span[0]
