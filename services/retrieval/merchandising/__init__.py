"""Merchandising: the rules that are active for a request, their effect on scores, and the places of pinned items."""
