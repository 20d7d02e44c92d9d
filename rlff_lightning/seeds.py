"""Seeds that depend on what is sampled, never on the order of sampling."""

import hashlib
import os


def derive_seed(*parts: int | str) -> int:
    """Hash any parts into a seed, the same on every machine and in every process.

    Args:
        parts: What names the draw, e.g. a run's seed, a context's id and a turn.

    Returns:
        An integer in ``[0, 2**31)``.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**31


def run_seed(seed: int | None) -> int:
    """Take a seed as given, or the run's: what ``seed_everything`` set.

    Args:
        seed: An explicit seed, or ``None``.

    Returns:
        The seed; 0 if there is neither.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
