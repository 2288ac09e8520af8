"""The order of an answer: candidates, exclusions, scores, diversity, and what is chosen."""
