"""Nearline: recommendations that react to a click before the next page loads, and can prove it."""

__version__ = "0.1.0"
