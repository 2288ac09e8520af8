"""How many examples property tests draw, and that none of them fails because the machine is busy."""

import os
from typing import Any

from hypothesis import settings

TIMES = int(os.environ.get("TEST_EXAMPLES", "1"))  # `make nightly` draws ten times as many
USUAL = settings(max_examples=100 * TIMES, deadline=None)  # a crowded machine stops for longer than a test takes


def examples(usual: int, **more: Any) -> settings:
    """The settings of a property test that draws *usual* examples, TEST_EXAMPLES times as many if that is set."""
    return settings(USUAL, max_examples=usual * TIMES, **more)
