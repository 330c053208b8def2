"""Straight lines around reward models: fit, grow, evaluate, score."""
