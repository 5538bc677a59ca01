"""Images and annotations put together block by block: what a dict of lists gives, in whatever order they
come.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.errors import DataError
from odis.objects.sources import annotation_join
from odis.objects.sources.annotation_join import ANNOTATION, AnnotationJoin

small = st.integers(-3, 12)
ids = st.lists(small, max_size=25) | st.lists(
    small | st.sampled_from(["a", "3", 2**70, -(2**63), True]), max_size=25
)


def records(numbers: list[int], more: list[bool]) -> np.ndarray:
    found = np.zeros(len(numbers), ANNOTATION)
    found["number"], found["more"], found["box"][:, 0] = numbers, more, numbers
    return found


@settings(max_examples=100, deadline=None)
@given(ids, st.data())
def test_annotations_come_with_their_images_in_both_orders(names: list[Any], data: st.DataObject) -> None:
    of = data.draw(st.lists(st.sampled_from([*names, 99, "no", 2**64]), max_size=40))
    more = data.draw(st.lists(st.booleans(), min_size=len(of), max_size=len(of)))
    chunk = data.draw(st.integers(1, 9))
    orphans: list[tuple[int, Any, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotation_join, "BLOCK", data.draw(st.integers(1, 5)))
        patch.setattr(annotation_join, "_RECORDS", data.draw(st.integers(1, 30)))
        patch.setattr(annotation_join, "_PARCELS", data.draw(st.integers(1, 3)))
        patch.setattr(annotation_join, "IN_MEMORY", data.draw(st.sampled_from([1, 10**6])))
        pair = AnnotationJoin(
            Path("a.json"), lambda record, rest, image: orphans.append((int(record["number"]), rest, image))
        )

        def add_images() -> None:
            for k in range(0, len(names), chunk):
                pair.add_images(
                    names[k : k + chunk], [(k + i, name) for i, name in enumerate(names[k : k + chunk])]
                )

        images_first = data.draw(st.booleans())
        if images_first:
            add_images()
        for k in range(0, len(of), chunk):
            part = list(range(k, min(len(of), k + chunk)))
            pair.add_annotations(
                of[k : k + chunk],
                records(part, more[k : k + chunk]),
                [("more", i, [of[i]]) for i in part if more[i]],
            )
        if not images_first:
            add_images()
        pair.close()

        expected: dict[Any, list[int]] = {name: [] for name in names}
        for i, image in enumerate(of):
            if image in expected:
                expected[image].append(i)
        found_images: list[tuple] = []
        for k in range(-(-len(names) // annotation_join.BLOCK)):
            images, found, rest = pair.block(k)
            found_images += images
            for place, (position, name) in enumerate(images):
                mine = found["place"] == place
                first = names.index(name) == position
                assert found["number"][mine].tolist() == (expected[name] if first else [])
                assert (found["box"][mine][:, 0] == found["number"][mine]).all()
            for number, one in zip(found["number"].tolist(), rest, strict=True):
                assert one == (("more", number, [of[number]]) if more[number] else None)
    assert found_images == list(enumerate(names))
    assert len(pair) == len(names)
    assert list(pair.repeated()) == [i for i, name in enumerate(names) if names.index(name) < i]
    lost = [i for i, image in enumerate(of) if image not in expected]
    assert sorted(orphans, key=lambda orphan: orphan[0]) == [
        (i, ("more", i, [of[i]]) if more[i] else None, of[i]) for i in lost
    ]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", "c", None])), max_size=12),
    st.lists(st.integers(0, 6), max_size=20),
    st.booleans(),
    st.integers(1, 4),
    st.booleans(),
)
def test_annotations_of_one_image_under_several_ids_come_with_the_first(
    listed: list[tuple[int, str | None]], of: list[int], images_first: bool, block: int, alike: bool
) -> None:
    lost: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotation_join, "BLOCK", block)
        if alike:  # names that are told apart although their numbers are the same
            patch.setattr(annotation_join, "hash", lambda _: 1, raising=False)
        pair = AnnotationJoin(
            Path("a.json"), lambda record, rest, image: lost.append(int(record["number"])), lambda row: row[1]
        )
        if images_first:
            pair.add_images([one for one, _ in listed], listed)
        pair.add_annotations(of, records(list(range(len(of))), [False] * len(of)), [])
        if not images_first:
            pair.add_images([one for one, _ in listed], listed)
        pair.close()
        by_id: dict[int, int] = {}
        by_name: dict[str, int] = {}
        again, same = [], []
        for k, (one, name) in enumerate(listed):
            if one in by_id:
                again.append(k)
                continue
            by_id[one] = k if name is None else by_name.setdefault(name, k)
            if by_id[one] != k:
                same.append((k, by_id[one]))
        expected = {k: [i for i, image in enumerate(of) if by_id.get(image) == k] for k in range(len(listed))}
        found: dict[int, list[int]] = {k: [] for k in range(len(listed))}
        for k in range(-(-len(listed) // block)):
            images, rows, _ = pair.block(k)
            assert images == listed[k * block : (k + 1) * block]
            for place, number in zip(rows["place"].tolist(), rows["number"].tolist()):
                found[k * block + place].append(number)
    assert found == expected
    assert (list(pair.repeated()), list(pair.same())) == (again, same)
    assert lost == [i for i, image in enumerate(of) if image not in by_id]


def test_what_does_not_fit_into_memory_is_in_a_file_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_join, "IN_MEMORY", 100)
    monkeypatch.setattr(annotation_join.tempfile, "tempdir", str(tmp_path))
    pair = AnnotationJoin(Path("a.json"), lambda *_: None)
    pair.add_images(list(range(100)), [(i, "x" * 20) for i in range(100)])
    pair.close()
    assert pair._file._rolled  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
    assert pair.block(0)[0][99] == (99, "x" * 20)


def test_a_full_disk_and_endless_lists_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = AnnotationJoin(Path("a.json"), lambda *_: None)
    deep: list[Any] = []
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(
        DataError, match=r"a\.json: cannot be read \(lists or objects in each other, too deep\)"
    ):
        pair.add_annotations([1], records([1], [True]), [deep])

    def full(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        pair,
        "_file",
        type("Full", (), {"seek": lambda self, at: None, "write": lambda self, data: full(data)})(),
    )
    with pytest.raises(
        DataError, match=r"temporary file in .* cannot be written \(No space left on device\)"
    ):
        pair.add_annotations([1], records([1], [False]), [])
