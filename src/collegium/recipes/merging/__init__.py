"""Making one expert of several: the operands, the ways to merge them, the run."""
