"""item_tower: turns items into item vectors."""
