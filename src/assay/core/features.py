"""Features: rows of numbers, one for each example, by what they are made of."""

INPUTS = "inputs"
"""The inputs themselves, flattened."""
ROWS = "rows:"
"""Followed by a name: rows given from outside, such as embeddings of another model."""
