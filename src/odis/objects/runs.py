"""The bound of a run of equal pixels in a mask."""

LONGEST_RUN = 2**31 - 1
"""Pixels of a run: more than any image has, and so few that sums of runs do not overflow 64 bits."""
