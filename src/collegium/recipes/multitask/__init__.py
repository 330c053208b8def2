"""`multitask fit / run / eval`: tasks learnt together."""
