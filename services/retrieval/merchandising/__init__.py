"""Rules as data: what holds for a request, what it does to scores, and where pins and exploration put items."""
