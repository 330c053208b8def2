"""Collegium turns any small language model into a college of experts."""
