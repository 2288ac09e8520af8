"""retrieval: answers GET /recommend/<user_id>."""
