"""Items in an engine of their own (Milvus), shared by all replicas."""
