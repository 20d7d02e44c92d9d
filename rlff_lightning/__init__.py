"""Train language models for conversations that have a goal, on PyTorch Lightning."""

__version__ = "0.1.0"
