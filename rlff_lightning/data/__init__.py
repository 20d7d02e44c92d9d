"""LightningDataModules and collators."""
