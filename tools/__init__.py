"""Tools of whoever works on Nearline; no part of the system needs them."""
