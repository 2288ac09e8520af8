"""The HTTP door: events and changes of the catalogue, checked and in the log before they are answered."""
