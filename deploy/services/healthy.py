"""A container's health check without curl: exit 0 when a URL answers 200 within three seconds.

    python /app/deploy/services/healthy.py http://127.0.0.1:8080/readyz

Standard library only, so that every image with a Python can use it.
"""

import sys
import urllib.error
import urllib.request

TIMEOUT_S = 3.0


def problem_of(url: str) -> str | None:
    """What is wrong with the answer of *url*, or ``None`` when it is 200."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return None if answer.status == 200 else f"{url}: {answer.status}"
    except urllib.error.HTTPError as refused:
        return f"{url}: {refused.code} {refused.read(500).decode(errors='replace')}"
    except OSError as unreachable:
        return f"{url}: {unreachable}"


if __name__ == "__main__":
    sys.exit(problem_of(sys.argv[1]))
