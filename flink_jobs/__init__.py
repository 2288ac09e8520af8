"""The Flink jobs: one folder per job, whose graph is in job.py."""
