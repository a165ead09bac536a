"""A recorded training that can be repeated: its steps forwards and backwards, its checkpoints, targets and features."""
