"""``python -m services.retrieval``."""

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a scan of the delta is too short to share; read at numpy's import

from services.retrieval.app import main

sys.exit(main())
