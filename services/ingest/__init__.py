"""ingest: accepts events, items and users by HTTP; it checks them and answers once they are in the log."""
