"""Images out of the store are those put into it, by whichever process, until it is full."""

import multiprocessing
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.data.pixels import memory as store
from odis.data.pixels.decode import Decoded
from odis.data.pixels.memory import MemoryCache
from odis.data.pixels.request import ImageRequest


def asked(row: int, shrink: int) -> ImageRequest:
    return ImageRequest(row, "not read", (0, 0), shrink)


def an_image(height: int, width: int, shrink: int = 1, offset: tuple[float, float] = (0.0, 0.0)) -> Decoded:
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    return Decoded(pixels.permute(2, 0, 1), shrink, offset)


def assert_same(a: Decoded | None, b: Decoded) -> None:
    assert a is not None
    assert torch.equal(a.pixels, b.pixels)
    assert a.pixels.stride() == b.pixels.stride()
    assert (a.shrink, a.offset) == (b.shrink, b.offset)


SIZES = st.integers(1, 9)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([1, 2, 8]), SIZES, SIZES), max_size=20),
    st.integers(0, 600),
)
def test_it_gives_the_first_image_put_in_or_none(puts, most):
    images, expected, used = MemoryCache(5, most), {}, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is full
        for row, shrink, height, width in puts:
            image = an_image(height, width, shrink, (0.25 * row, -0.5))
            images.put(asked(row, shrink), image)
            if (row, shrink) not in expected and used + 3 * height * width <= most:
                expected[row, shrink] = image
                used += 3 * height * width
    for row in range(5):
        for shrink in (1, 2, 8):
            found = images.get(asked(row, shrink))
            if (row, shrink) in expected:
                assert_same(found, expected[row, shrink])
            else:
                assert found is None


def test_what_a_worker_puts_in_others_find():
    images, fork = MemoryCache(40), multiprocessing.get_context("fork")
    torch.manual_seed(0)
    made = [an_image(3 + i % 7, 2 + i % 5) for i in range(40)]

    def fill(first: int) -> None:
        for i in range(first, 40, 3):
            images.put(asked(i, 1), made[i])

    workers = [fork.Process(target=fill, args=(k,)) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    for i, image in enumerate(made):
        assert_same(images.get(asked(i, 1)), image)


def test_a_full_store_says_so_and_keeps_what_it_has():
    images, first = MemoryCache(3, 100), an_image(5, 5)
    images.put(asked(0, 1), first)
    with pytest.warns(UserWarning, match=r"loader\.keep memory: 0\.0 GiB are full"):
        images.put(asked(1, 1), an_image(5, 2))
    assert images.get(asked(1, 1)) is None
    images.put(asked(2, 1), an_image(4, 2))  # this one fits
    assert images.get(asked(2, 1)) is not None
    assert_same(images.get(asked(0, 1)), first)


def test_a_process_that_is_started_anew_has_its_own():
    images = MemoryCache(3, 1000)
    images.put(asked(0, 1), an_image(2, 2))
    other = pickle.loads(pickle.dumps(images))
    assert other.get(asked(0, 1)) is None
    other.put(asked(0, 1), kept := an_image(3, 3))
    assert_same(other.get(asked(0, 1)), kept)
    assert images.get(asked(0, 1)).pixels.shape == (3, 2, 2)


def test_images_shrunk_by_more_than_ever_happens_are_not_kept():
    images = MemoryCache(1, 1000)
    images.put(asked(0, 256), an_image(2, 2))
    assert images.get(asked(0, 256)) is None


def test_no_more_than_the_system_promises(monkeypatch):
    taken, mapped = [], store.mmap.mmap

    def stingy(file, size):
        taken.append(size)
        if size > 1000:
            raise OSError(12, "Cannot allocate memory")
        return mapped(file, size)

    monkeypatch.setattr(store.mmap, "mmap", stingy)
    images = MemoryCache(2, 3000)
    assert taken[-3:] == [3000, 1500, 750]
    images.put(asked(0, 1), an_image(10, 10))
    assert images.get(asked(0, 1)) is not None


def test_ranks_on_one_machine_take_a_part_each(monkeypatch):
    monkeypatch.setattr(store, "memory", lambda: 1600)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    images = MemoryCache(2)  # 300 bytes
    images.put(asked(0, 1), an_image(10, 10))
    assert images.get(asked(0, 1)) is not None
    with pytest.warns(UserWarning, match="are full"):
        images.put(asked(1, 1), an_image(1, 1))


def test_memory_is_that_of_the_control_group_if_that_is_less(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(store, "Path", lambda _: limit)
    whole = store.memory()
    assert whole > 2**28
    limit.write_text("max\n")
    assert store.memory() == whole
    limit.write_text("1048576\n")
    assert store.memory() == 1048576
