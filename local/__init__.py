"""Nearline on one machine without containers: the same programs as in the compose file, as processes."""
