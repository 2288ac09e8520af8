"""The demo page: a shop built from the catalogue, and an operator's view of the system behind it."""
