"""LightningModules, one per stage."""
