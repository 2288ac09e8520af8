"""Users on the request path: reading and caching documents, waiting for updates, active users, session vectors."""
