"""Conversations as data, without torch: readers, reply format, chat template."""
