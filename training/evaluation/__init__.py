"""What rankings are worth: metrics over the full catalogue, intervals, slices, and the baselines beside the towers."""
