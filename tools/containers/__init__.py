"""Tries the compose files in a real engine: ``make containers``."""
