"""The services: each folder is one process; app.py is its composition root."""
