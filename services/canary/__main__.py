"""``python -m services.canary``."""

from services.canary.app import main

if __name__ == "__main__":
    main()
