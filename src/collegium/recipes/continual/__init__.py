"""`continual`: tasks one after another."""
