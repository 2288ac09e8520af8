"""How much of the event loop's time folding and measuring take when requests use all of it.

With slices of fixed length this work would starve, the delta would grow, and every search would become slower, which
leaves even less time. So a slice is a share of the time for which requests kept it waiting.
"""

SLICE_S = 0.0005  # of folding, at least
EASY_ROWS, MOST_ROWS = 2_000, 5_000  # a delta below the first costs requests little; it should stay below the second
_FOLD_SHARES = (0.2, 0.6)  # of all time, at EASY_ROWS and from MOST_ROWS on; 500 rows a second take about 0.2
_EASY_SLICE_S = 0.02  # the longest slice up to EASY_ROWS
_DOUBLING_ROWS = 500  # beyond, the longest slice doubles with so many more rows
_MEASURE_SHARE = 0.1
_LONGEST_MEASURE_S = 0.25


def fold_slice_s(waited_s: float, delta_rows: int) -> float:
    """How many seconds to fold without a break, after requests kept folding waiting for *waited_s*."""
    beyond = min(1.0, max(0.0, (delta_rows - EASY_ROWS) / (MOST_ROWS - EASY_ROWS)))
    share = _FOLD_SHARES[0] + beyond * (_FOLD_SHARES[1] - _FOLD_SHARES[0])
    longest: float = _EASY_SLICE_S * 2.0 ** min(8.0, max(0, delta_rows - EASY_ROWS) / _DOUBLING_ROWS)
    return max(SLICE_S, min(waited_s * share / (1 - share), longest))


def measure_slice_s(waited_s: float) -> float:
    """How many seconds to measure without a break, after requests kept measuring waiting for *waited_s*."""
    return min(waited_s * _MEASURE_SHARE, _LONGEST_MEASURE_S)
