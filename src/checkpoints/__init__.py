"""Weights on disk: read lazily through memory maps, written one entry at a time, found, converted, adapted."""
