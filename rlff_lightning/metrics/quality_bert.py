"""BERTScore of one reply to one reference, with an encoder that the user names."""

import warnings
from typing import Any

from torchmetrics.functional.text.bert import bert_score

from rlff_lightning.errors import UserError


class BertScore:
    """F1 of the greedy matching of two texts' contextual word vectors, not rescaled.

    One pair at a time: torchmetrics 1.9 mixes up pairs of different lengths in a batch of three.

    Args:
        model: An encoder in evaluation mode; its last layer is taken.
        tokenizer: The encoder's.
        max_tokens: Tokens that the encoder can read.

    Source: Zhang et al. 2020, arXiv:1904.09675, sec. 3.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(self, reply: str, reference: str) -> float:
        """Compare a reply with its reference; 0 if one of them is empty.

        Raises:
            UserError: If a text is longer than the encoder can read.
        """
        if not reply.strip() or not reference.strip():
            return 0.0
        sizes = [len(self.tokenizer(text)["input_ids"]) for text in (reply, reference)]
        if max(sizes) > self.max_tokens:
            raise UserError(
                f"BERTScore's encoder reads at most {self.max_tokens} tokens, got a text of "
                f"{max(sizes)}; name an encoder that reads more, or none"
            )
        with warnings.catch_warnings():
            # The words are compared as they are: no baseline is asked for.
            warnings.simplefilter("ignore", UserWarning)
            found = bert_score(
                [reply],
                [reference],
                model=self.model,
                user_tokenizer=self.tokenizer,
                max_length=max(sizes),
                device=self.model.device,
            )
        return float(found["f1"])  # type: ignore[arg-type]
