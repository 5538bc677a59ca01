"""The loop that reads COCO compressed run-length counts, compiled."""

from __future__ import annotations

import numpy as np

from odis.machine.compiled import compiled
from odis.objects.runs import LONGEST_RUN

BROKEN, NEGATIVE = -1, -2
LONGEST = LONGEST_RUN


@compiled()
def read_runs(code: np.ndarray, runs: np.ndarray) -> int:
    """Number of runs, which are written to `runs`; `BROKEN` or `NEGATIVE` if the bytes are no counts."""
    found, value, digit, problem = 0, np.int64(0), 0, 0
    for k in range(len(code)):
        bits = np.int64(code[k]) - 48
        if bits < 0 or bits > 63 or digit == 7:  # 7 digits are 35 bits: more than any image has pixels
            return BROKEN
        value |= (bits & 0x1F) << (5 * digit)
        digit += 1
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= np.int64(1) << (5 * digit)
        if found > 2:  # from the fourth on, each run is written as the difference to the run two before
            value += runs[found - 2]
        if value > LONGEST:  # so that no sum of runs overflows
            return BROKEN
        if value < 0:
            problem = NEGATIVE
        runs[found] = value
        found, value, digit = found + 1, np.int64(0), 0
    return BROKEN if digit > 0 or found == 0 else problem or found
