"""The stages of `build`, each of which is done once and found again by the next run."""
