"""``python -m services.user_tower``."""

from services.user_tower.app import main

if __name__ == "__main__":
    main()
