from rlff_lightning.seeds import derive_seed


def test_a_seed_is_the_same_in_every_process_and_release() -> None:
    # A constant, for Python's own hash of a text changes from process to process.
    assert derive_seed(0, "episode", 1) == 1168843338
    assert derive_seed("1") != derive_seed(1)
    assert derive_seed("a", "b") != derive_seed("ab")
