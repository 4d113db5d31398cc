"""Vectors of several tasks in less space: packed masks, low-rank factors, codes of a few bits."""
