"""Intervals, and comparisons of methods on the same seeds."""
