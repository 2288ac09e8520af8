"""Items on the request path: the interface of an index, popularity, text search, and the JSON of an item."""
