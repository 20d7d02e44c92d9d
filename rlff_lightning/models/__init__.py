"""Loading, heads, adapters and log-probabilities of language models."""
