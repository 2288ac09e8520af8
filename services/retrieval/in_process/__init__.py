"""Items in this process: a catalogue in memory, its vectors in a live index."""
