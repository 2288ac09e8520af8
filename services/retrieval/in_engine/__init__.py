"""Items in a remote engine (Milvus), shared by all replicas."""
