"""Reads training data, folders of Parquet or CSV, as a log and a catalogue: described, checked, sorted and split."""
