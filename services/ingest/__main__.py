"""``python -m services.ingest``."""

import sys

from services.ingest.app import main

if __name__ == "__main__":
    sys.exit(main())
