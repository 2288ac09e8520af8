"""The read routes beside ``GET /recommend/{user_id}``, each with its own models; reads.py puts them together."""
