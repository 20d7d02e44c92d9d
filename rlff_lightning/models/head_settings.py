"""What a reward model's head predicts, as a config says it."""

from dataclasses import dataclass
from typing import Literal, get_args

from rlff_lightning.errors import UserError
from rlff_lightning.models.pooling import Pooling

Kind = Literal["regression", "outcomes", "binary"]
"""What a head predicts."""
Reads = Literal["joined", "apart"]
"""Context and reply as one text, or each embedded by itself."""


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """What the head predicts, and from where it reads.

    Args:
        kind: ``regression`` predicts the value itself, ``outcomes`` how probable each of the
            critic's outcomes is, ``binary`` the probability of a positive one.
        reads: ``joined`` reads context and reply as one text; ``apart`` embeds the context, its
            latest message and the reply each by itself (sentence encoders are made for that).
        pooling: State that is read: of the ``last`` attended token (decoders), the ``mean`` over
            all, or the first one's, ``cls`` (encoders).
        layers: Layers whose states are averaged before pooling, counted from the last. The layers
            below the last tell more to a linear head (Devlin et al. 2019, arXiv:1810.04805,
            table 7), for the last one is made for what the trunk was pretrained on.
        class_values: Value of each outcome, for ``outcomes`` only.
        members: Heads of an ensemble on one trunk; each learns from about 63 % of the contexts, so
            that they disagree where a reward is not to be trusted. 1 is no ensemble.
    """

    kind: Kind = "regression"
    reads: Reads = "joined"
    pooling: Pooling = "last"
    layers: int = 1
    class_values: tuple[float, ...] = ()
    members: int = 1

    def __post_init__(self) -> None:
        for name, known in (("kind", Kind), ("reads", Reads), ("pooling", Pooling)):
            if getattr(self, name) not in get_args(known):
                raise UserError(
                    f"HeadSettings.{name} must be one of {', '.join(get_args(known))}, got "
                    f"{getattr(self, name)!r}"
                )
        if (self.kind == "outcomes") != (len(self.class_values) > 1):
            raise UserError(
                "HeadSettings.class_values must be two or more for kind 'outcomes' and none for "
                f"other kinds, got {self.class_values} for {self.kind!r}"
            )
        for name in ("layers", "members"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"HeadSettings.{name} must be at least 1, got {getattr(self, name)!r}"
                )

    @property
    def num_states(self) -> int:
        """States of the trunk's width that the head reads at once; see ``pooling.compare``."""
        return 5 if self.reads == "apart" else 1

    @property
    def num_outputs(self) -> int:
        """Numbers that a head predicts."""
        return len(self.class_values) or 1
