"""Futures of a reply, future-oriented reward, self-play."""
