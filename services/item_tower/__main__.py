"""``python -m services.item_tower``."""

from services.item_tower.app import main

if __name__ == "__main__":
    main()
