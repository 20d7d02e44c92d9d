"""Experience for reinforcement learning: contexts, scorers, loader."""
