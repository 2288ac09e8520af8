"""The stages of an answer: each a small function over arrays, put in their order by order.py."""
