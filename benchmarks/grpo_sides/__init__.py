"""The two trainers that ``grpo_step.py`` compares, each in a process of its own."""
