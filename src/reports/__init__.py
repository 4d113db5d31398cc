"""Figures of results and analyses."""
