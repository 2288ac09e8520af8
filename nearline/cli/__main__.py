"""``python -m nearline.cli``."""

from nearline.cli.app import main

if __name__ == "__main__":
    main()
