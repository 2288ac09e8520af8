"""Tools for developing Nearline; no part of the system needs them."""
