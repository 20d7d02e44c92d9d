"""Torchmetrics classes, thin over `functional`."""
