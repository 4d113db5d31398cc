"""Checkpoints, heads and masks as other programs pickled them, read without running anything in them."""
