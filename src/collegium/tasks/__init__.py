"""Many tasks, one after another or together."""
