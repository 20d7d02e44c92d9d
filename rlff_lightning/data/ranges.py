"""Ranges of what every data module is given."""

from rlff_lightning.errors import UserError


def check_ranges(owner: str, *, batch_size: int, **fractions: float) -> None:
    """Refuse a batch without items, and shares that leave nothing to train on.

    Args:
        owner: Class, as the message names it.
        batch_size: Items per batch, at least 1.
        fractions: Shares held out, by the name of their argument, each in [0, 1); their sum too.

    Raises:
        UserError: If one is out of its range.
    """
    if batch_size < 1:
        raise UserError(f"{owner}.batch_size must be at least 1, got {batch_size!r}")
    for name, share in fractions.items():
        if not 0 <= share < 1:
            raise UserError(f"{owner}.{name} must be in [0, 1), got {share!r}")
    if not sum(fractions.values()) < 1:
        raise UserError(
            f"{owner}.{' + '.join(fractions)} must be below 1 to leave a share for training, "
            f"got {' + '.join(map(repr, fractions.values()))}"
        )
