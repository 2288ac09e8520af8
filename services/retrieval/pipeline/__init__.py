"""The pipeline of an answer: candidates, exclusions, scores, diversity and selection."""
