"""The index measured: ``make bench-index``."""
