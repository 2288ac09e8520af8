"""user_tower: turns sequences into user vectors."""
