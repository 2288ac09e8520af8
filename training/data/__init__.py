"""A log and a catalogue as training reads them: folders of parquet, described, checked, sorted, split."""
