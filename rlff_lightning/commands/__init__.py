"""Verbs of `rlff` that are no Trainer run."""
