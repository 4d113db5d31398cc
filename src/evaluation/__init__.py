"""Scores of models on data, computed once, and the choice of coefficients and masks by them."""
