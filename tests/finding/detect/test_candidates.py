"""Which images are shown together."""

from hypothesis import given
from hypothesis import strategies as st

from odis.finding.detect.candidates import alike


@given(st.lists(st.integers(0, 4)))
def test_groups_hold_every_position_once_and_equal_keys_only(keys: list[int]):
    groups = alike(keys)
    assert sorted(i for group in groups for i in group) == list(range(len(keys)))
    assert all(len({keys[i] for i in group}) == 1 for group in groups)
    assert len(groups) == len(set(keys))
