"""Scores of models on data, computed once, and what is chosen by them."""
