"""A network of every kind of block, small enough to run in microseconds."""

from __future__ import annotations

from pathlib import Path

from weebill.bench.case import Case, make_case
from weebill.bench.suites import parse_suite, resize

SMALL = parse_suite(
    "small",
    """
conv2d         stem     3 19 14  0  8 3 2 1 0 0 hardswish none 0 1
max_pool       max      8 10  7  0  8 3 2 1 0 0 none      none 0 1
separable      first    8  5  4  8  8 3 1 1 0 0 relu      none 1 2
separable      second   8  5  4 24  8 5 1 2 1 4 hardswish none 1 1
separable      third    8  5  4 16  8 3 2 1 1 0 relu6     relu 0 1
shuffle_unit   split    8  3  2  4  8 3 1 1 1 0 relu      relu 0 1
shuffle_unit   down     8  3  2  4  8 3 2 1 1 0 relu      relu 0 1
squeeze_excite gate     8  2  1  0  8 1 1 0 0 2 none      none 0 1
depthwise      window   8  2  1  0  8 3 1 1 0 0 relu      none 0 1
pool           pool     8  2  1  0  8 1 1 0 0 0 none      none 0 1
conv2d         linear   8  1  1  0  9 1 1 0 0 0 hardswish none 0 1
conv2d         last     9  1  1  0  7 1 1 0 0 0 none      none 0 1
""",
    network=True,
).blocks


def small_case(cache: Path) -> Case:
    """All of them as one network."""
    return make_case("small net/1", resize(SMALL, 24, 20), cache)
