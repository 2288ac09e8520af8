"""Benchmarks: seeded, one question each, each prints one table."""
