"""Benchmarks of the index: ``make bench-index``."""
