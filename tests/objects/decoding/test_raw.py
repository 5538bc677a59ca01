"""Numbers of a file to 8-bit channels, against arithmetic in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from odis.config.pixels import PixelFormat
from odis.errors import DataError, OdisWarning
from odis.objects.decoding import raw as module
from odis.objects.decoding.raw import RawImage, scaled, select_channels, stretched, to_pixels

GREY = PixelFormat(1)
RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)


def test_a_ramp_of_16_bits_keeps_its_order_and_all_levels() -> None:
    pixels = to_pixels(RawImage(RAMP), GREY, "x").ravel().astype(int)
    assert (np.diff(pixels) >= 0).all()
    assert len(np.unique(pixels)) == 256


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_white_is_white_at_every_depth(bits: int) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    raw = RawImage(
        np.array([[[0], [2**bits - 1]]], kind), stated=(0.0, 2.0**bits - 1) if bits == 12 else None
    )
    assert to_pixels(raw, GREY, "x").ravel().tolist() == [0, 255]


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.dtype(">u2"), np.uint32, np.int64]).flatmap(
        lambda kind: hnp.arrays(kind, (3, 4))
    ),
    st.floats(-1e5, 1e5),
    st.floats(1e-2, 1e6),
)
def test_a_range_is_stretched_to_all_levels(values: np.ndarray, low: float, width: float) -> None:
    exact = (values.astype(np.float64) - low) / width * 255
    found = scaled(values, low, low + width).astype(np.float64)
    # Half a level of rounding, and what float64 loses of numbers that are far larger than the range.
    lost = np.abs(values.astype(np.float64)) * 2.0**-50 / width * 255
    assert (np.abs(found - np.clip(exact, 0, 255)) <= 0.5 + 1e-6 + lost).all()


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (3, 4)))
def test_floats_of_any_kind_are_pixels(values: np.ndarray) -> None:
    found = scaled(values, -1.0, 1.0).astype(np.float64)
    known = np.where(np.isnan(values), -1.0, values).astype(np.float64)
    assert (np.abs(found - np.clip((known + 1) / 2, 0, 1) * 255) <= 0.5 + 1e-4).all()


def test_ranges_of_each_channel_and_low_that_is_bright() -> None:
    values = np.array([[[0, 10], [5, 20], [10, 30]]], np.int32)
    form = PixelFormat(2, ((0.0, 10.0), (10.0, 30.0)))
    assert to_pixels(RawImage(values), form, "x")[0].tolist() == [[0, 0], [128, 128], [255, 255]]
    inverted = to_pixels(RawImage(values, inverted=True), form, "x")
    assert inverted[0].tolist() == [[255, 255], [127, 127], [0, 0]]


def test_what_is_missing_is_black_even_where_low_is_bright() -> None:
    missing = np.array([[True, False]])
    raw = RawImage(np.full((1, 2, 1), 7, np.uint8), missing=missing, inverted=True)
    assert to_pixels(raw, PixelFormat(3), "x").tolist() == [[[0] * 3, [248] * 3]]


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.int16])
def test_numbers_without_a_stated_range_are_refused(kind: type) -> None:
    with pytest.raises(DataError, match=r"x: has .* pixels; state views.value_ranges .*stats --pixels"):
        to_pixels(RawImage(np.zeros((2, 2, 1), kind)), GREY, "x")


def test_channels_are_matched_or_refused() -> None:
    colours = RawImage(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), order="colour", alpha=True)
    assert select_channels(colours, 4, "x").channels == 4
    assert select_channels(colours, 3, "x").channels == 3
    luma = to_pixels(colours, GREY, "x")[..., 0]
    expected = colours.values[..., :3].astype(np.float64) @ [0.2989, 0.587, 0.114]
    assert np.abs(luma - expected).max() <= 0.5 + 1e-4
    grey = RawImage(np.ones((2, 2, 1), np.uint8))
    assert to_pixels(grey, PixelFormat(3), "x").tolist() == [[[1] * 3] * 2] * 2
    pages = RawImage(np.ones((2, 2, 5), np.uint8), pages=True)
    assert [select_channels(pages, count, "x").channels for count in (5, 1)] == [5, 1]
    for raw, channels in ((grey, 2), (RawImage(np.ones((2, 2, 5), np.uint8)), 3), (colours, 5)):
        with pytest.raises(DataError, match=f"x: has . channels?, but views.channels is {channels}"):
            select_channels(raw, channels, "x")


@pytest.mark.filterwarnings("error")
def test_twelve_bits_in_sixteen_are_said_to_be_dark_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_warned", False)
    dark = RawImage(RAMP[:16])  # at most 4095
    with pytest.warns(OdisWarning, match=r"at most 4095, almost black .* views.value_ranges"):
        to_pixels(dark, GREY, "x")
    to_pixels(dark, GREY, "x")  # a second warning would be an error of this test
    monkeypatch.setattr(module, "_warned", False)
    to_pixels(dark, PixelFormat(1, ((0.0, 4095.0),)), "x")  # a warning would be an error of this test
    to_pixels(RawImage(RAMP), GREY, "x")


def test_pictures_for_people_show_what_is_there() -> None:
    dim = RawImage((RAMP[:16] + 100).astype(np.float32))
    shown = stretched(dim)
    assert (shown.shape, shown.min(), shown.max()) == ((16, 256, 3), 0, 255)
    plain = np.random.default_rng(0).integers(0, 256, (5, 6, 5), np.uint8)
    assert np.array_equal(stretched(RawImage(plain)), plain[..., :3])
    assert stretched(RawImage(np.full((2, 2, 1), 7, np.uint16))).tolist() == [[[0] * 3] * 2] * 2


def test_tables_of_ranges_that_are_never_seen_again_do_not_pile_up() -> None:
    """As those of a data set whose files each have a window of their own."""
    module._table.cache_clear()
    for k in range(200):
        scaled(RAMP[:2, :2], 0.0, 1000.0 + k)
    assert module._table.cache_info().currsize <= 64
