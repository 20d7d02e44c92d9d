"""Supporter, seeker and critic: scripted or by a language model."""
