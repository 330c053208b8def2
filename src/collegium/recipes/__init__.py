"""Straight-line programs over the parts: one config, one run, one card."""
