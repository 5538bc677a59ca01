"""Entries of `loader.keep`: what they mean, and one line for what they cannot."""

import re

import pytest

from odis.config.keep import CachePlace, parse_keep
from odis.errors import ConfigError


def test_places_are_given_in_their_order():
    assert parse_keep([], "cpu") == []
    assert parse_keep(["device:20GiB", "memory", "disk:a/b"], "device") == [
        CachePlace("device", size=20 * 2**30),
        CachePlace("memory"),
        CachePlace("disk", folder="a/b"),
    ]
    assert parse_keep(["disk:C:\\copies", "memory:8GB"], "cpu") == [
        CachePlace("disk", folder="C:\\copies"),
        CachePlace("memory", size=8 * 10**9),
    ]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1B", 1), ("3kB", 3000), ("3KiB", 3072), ("2MB", 2 * 10**6), ("2mib", 2 * 2**20),
        ("1.5GiB", 3 * 2**29), ("1TB", 10**12), ("1TiB", 2**40), (" 20 GiB ", 20 * 2**30),
    ],
)  # fmt: skip
def test_sizes_have_units(text: str, size: int):
    assert parse_keep([f"memory:{text}"], "cpu")[0].size == size


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (["shelf"], "'shelf' is no place to keep images; write device:SIZE, memory, memory:SIZE or disk:DIR"),
        ([""], "'' is no place to keep images"),
        (["gpu:20GiB"], "'gpu:20GiB' is no place"),
        (["memory", "disk:x", "memory:8GiB"], "memory is there twice"),
        (["disk:x", "disk:y"], "disk is there twice"),
        (["device"], "device needs a size, such as device:20GiB"),
        (["device:20"], "'device:20' has no size above 0; write a number and a unit (B, KB, "),
        (["device:"], "'device:' has no size above 0"),
        (["memory:-1GiB"], "'memory:-1GiB' has no size above 0"),
        (["memory:0GiB"], "'memory:0GiB' has no size above 0"),
        (["memory:0.1B"], "'memory:0.1B' has no size above 0"),
        (["memory:2GiBs"], "'memory:2GiBs' has no size above 0"),
        (["memory:" + "9" * 400 + "GiB"], "has no size above 0"),
        (["disk"], "disk needs a folder, such as disk:copies"),
        (["disk: "], "disk needs a folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(entries: list[str], says: str):
    with pytest.raises(ConfigError, match=f"^loader.keep: .*{re.escape(says)}") as caught:
        parse_keep(entries, "device")
    assert "\n" not in str(caught.value)


def test_images_stay_on_the_device_only_if_views_are_rendered_there():
    why = "has device:20GiB, but loader.render cpu renders views in the workers; set loader.render device"
    with pytest.raises(ConfigError, match=f"^loader.keep: {re.escape(why)}$"):
        parse_keep(["memory", "device:20GiB"], "cpu")
