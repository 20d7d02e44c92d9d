"""How a model's training is spread over processes, and its checkpoints."""
