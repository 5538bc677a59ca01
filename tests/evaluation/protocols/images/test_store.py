"""Interrupted passes go on where they stopped, and nothing stale is read."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from odis.errors import DataError, OdisError
from odis.evaluation.protocols.images.store import FeatureStore, Made, files_key, model_key
from odis.types import Skipped


class Maker:
    """Makes arrays that name their image; stops after some, as a kill would."""

    def __init__(self, stop: int = 10**9, skip: Sequence[int] = ()) -> None:
        self.stop, self.skip, self.made = stop, set(skip), []

    def __call__(self, numbers: Sequence[int]) -> Iterator[tuple[int, Made | Skipped]]:
        for number in numbers:
            if len(self.made) == self.stop:
                raise KeyboardInterrupt
            self.made.append(number)
            if number in self.skip:
                yield number, Skipped(f"{number}.jpg", "is gone")
            else:
                yield number, {"a": np.full((number % 3, 2), number, np.float32), "b.c": np.array([number])}


def plain(items):
    return [(n, i if isinstance(i, Skipped) else {k: v.tolist() for k, v in i.items()}) for n, i in items]


@given(
    count=st.integers(0, 9), chunk=st.integers(1, 4), stop=st.integers(0, 9), skip=st.sets(st.integers(0, 8))
)
def test_an_interrupted_pass_goes_on_at_its_chunk(tmp_path_factory, count, chunk, stop, skip):
    folder = tmp_path_factory.mktemp("store")
    expected = plain(FeatureStore("", {}).stream(count, Maker(skip=skip)))
    first = Maker(stop, skip)
    store = FeatureStore(folder, {"x": 1}, chunk)
    if stop < count:
        with pytest.raises(KeyboardInterrupt):
            list(store.stream(count, first))
    else:
        assert plain(store.stream(count, first)) == expected
    again = Maker(skip=skip)
    assert plain(FeatureStore(folder, {"x": 1}, chunk).stream(count, again)) == expected
    kept = count if stop >= count else stop // chunk * chunk
    assert again.made == list(range(kept, count))
    last = Maker(0, skip)
    assert plain(FeatureStore(folder, {"x": 1}, chunk).stream(count, last)) == expected  # all of it is there
    other = Maker(skip=skip)
    assert plain(FeatureStore(folder, {"x": 2}, chunk).stream(count, other)) == expected
    assert other.made == list(range(count))  # another key reads nothing of it


def test_a_damaged_chunk_and_a_longer_list_are_made_again(tmp_path: Path):
    def run(count: int) -> list[int]:
        maker = Maker()
        list(FeatureStore(tmp_path, {}, 2).stream(count, maker))
        return maker.made

    assert run(5) == [0, 1, 2, 3, 4]
    assert run(6) == [4, 5]  # the last chunk was of one image
    file = sorted(tmp_path.rglob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-3])
    assert run(6) == [2, 3]
    file.write_bytes(b"")
    assert run(6) == [2, 3]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        FeatureStore(tmp_path / "file", {})
    with pytest.raises(OdisError, match="chunk 0 must be 1 or more"):
        FeatureStore(tmp_path, {}, 0)


def test_the_key_of_a_model_is_that_of_its_weights_and_pixels(encoder):
    one, other = encoder("a"), encoder("b")
    assert model_key(one) == model_key(other)
    with torch.no_grad():
        next(other.model.parameters()).view(-1)[0] += 1e-3
    assert model_key(one) != model_key(other)
    third = encoder("a")
    third.std = (0.1, 0.2, 0.3)
    assert model_key(one) != model_key(third)


def test_the_key_of_files_changes_with_any_of_them(tmp_path: Path):
    paths = [str(tmp_path / name) for name in ("a", "b")]
    found = {files_key(paths)}
    for path in paths:
        Path(path).write_text("x")
        found.add(files_key(paths))
    os.utime(paths[0], ns=(1, 1))
    found.add(files_key(paths))
    assert len(found) == 4
    assert files_key(paths) == files_key(iter(paths)) != files_key(paths[::-1])
