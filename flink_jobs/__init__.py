"""The Flink jobs: each folder is one job; job.py is its graph."""
