"""Benchmarks: each is seeded, answers one question and prints one table."""
