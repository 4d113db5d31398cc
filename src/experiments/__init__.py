"""Experiments on models, each with the table and the record of its result."""
