"""Items in this process: a catalogue in memory, with its vectors in a live index."""
