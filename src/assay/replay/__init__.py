"""A training that can be taken again: its steps forwards and backwards, its checkpoints, targets and features."""
