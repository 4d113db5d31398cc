"""Figures (plots) of results and analyses."""
