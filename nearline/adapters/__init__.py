"""The outside world: one client library per file, imported nowhere else."""
