"""Evaluates rankings: metrics over the full catalogue, intervals, slices, and baselines to compare with the towers."""
