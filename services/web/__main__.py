"""``python -m services.web``."""

import sys

from services.web.app import main

if __name__ == "__main__":
    sys.exit(main())
