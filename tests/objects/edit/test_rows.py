"""Samples, filters and merges of indexes against lists made by hand."""

from pathlib import Path

import pytest
from PIL import Image

from odis.errors import ConfigError, DataError
from odis.objects.edit.rows import Filter, filter_index, merge_indexes, sample_index
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

CAT, DOG, SMALL = (
    Object((0, 0, 20, 9), label=0, score=0.9),
    Object((1, 2, 30, 30), label=1, score=0.4),
    Object((3, 3, 6, 40), label=0),
)
BARE = Object((0, 0, 12, 12))


def index(
    folder: Path,
    name: str,
    images: dict[str, list[Object]],
    classes: list[str],
    provenance: str = "annotated",
) -> ObjectIndex:
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for image in images:
        Image.new("RGB", (40, 40)).save(folder / "pictures" / image)
    rows = [ImageObjects(image, 40, 40, tuple(objects)) for image, objects in images.items()]
    write_index(
        folder / f"{name}.parquet", rows, root=folder / "pictures", provenance=provenance, classes=classes
    )
    return ObjectIndex.open(folder / f"{name}.parquet")


@pytest.fixture
def source(tmp_path: Path) -> ObjectIndex:
    return index(
        tmp_path,
        "source",
        {"a.png": [CAT, DOG], "b.png": [SMALL], "c.png": [], "d.png": [BARE, DOG]},
        ["cat", "dog"],
    )


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (Filter(min_score=0.5), [[CAT], [SMALL], [], [BARE]]),
        (Filter(min_size=5), [[CAT, DOG], [], [], [BARE, DOG]]),
        (Filter(min_size=5, with_objects=True), [[CAT, DOG], [BARE, DOG]]),
        (Filter(classes=["dog"]), [[DOG], [], [], [DOG]]),
        (Filter(classes=["cat"], min_score=0.95, with_objects=True), [[SMALL]]),
    ],
)
def test_what_a_filter_keeps(
    source: ObjectIndex, tmp_path: Path, kept: Filter, expected: list[list[Object]]
) -> None:
    written = filter_index(source, tmp_path / "out.parquet", kept)
    out = ObjectIndex.open(tmp_path / "out.parquet")
    got = [[o.box for o in row.objects] for row in out]
    assert got == [[o.box for o in objects] for objects in expected]
    assert [[o.label for o in row.objects] for row in out] == [
        [o.label for o in objects] for objects in expected
    ]
    assert written == (len(expected), sum(map(len, expected)))
    assert (out.classes, out.provenance, out.root) == (source.classes, source.provenance, source.root)


def test_a_sample_is_drawn_by_seed_and_keeps_the_order(source: ObjectIndex, tmp_path: Path) -> None:
    drawn = {}
    for seed in range(8):
        assert sample_index(source, tmp_path / "s.parquet", 2, seed)[0] == 2
        drawn[seed] = [row.image for row in ObjectIndex.open(tmp_path / "s.parquet")]
        assert drawn[seed] == sorted(drawn[seed])
    assert len({tuple(names) for names in drawn.values()}) > 2
    sample_index(source, tmp_path / "s.parquet", 2, 3)
    assert [row.image for row in ObjectIndex.open(tmp_path / "s.parquet")] == drawn[3]
    assert sample_index(source, tmp_path / "all.parquet", 4, 0) == (4, 5)


def test_merged_images_are_found_and_classes_joined_by_name(source: ObjectIndex, tmp_path: Path) -> None:
    other = index(
        tmp_path / "more", "other", {"a.png": [Object((0, 0, 9, 9), label=1)]}, ["bird", "cat"], "detected:x"
    )
    assert merge_indexes([source, other], tmp_path / "both.parquet") == (5, 6)
    both = ObjectIndex.open(tmp_path / "both.parquet")
    assert both.classes == ["cat", "dog", "bird"]
    assert both.provenance == "annotated+detected:x"
    assert [row.image for row in both] == [f"pictures/{name}.png" for name in "abcd"] + [
        "more/pictures/a.png"
    ]
    assert both[4].objects[0].label == 0
    assert [o.label for o in both[0].objects] == [0, 1]
    assert all(Path(both.image_path(i)).is_file() for i in range(5))


def test_refusals_write_nothing(source: ObjectIndex, tmp_path: Path) -> None:
    before = Path(source.path).read_bytes()
    out = tmp_path / "out.parquet"
    for call, error, message in (
        (lambda: filter_index(source, out, Filter()), ConfigError, "none is given, so nothing would change"),
        (
            lambda: filter_index(source, out, Filter(classes=["cow"])),
            ConfigError,
            "has no class 'cow'; it has cat, dog",
        ),
        (lambda: filter_index(source, out, Filter(min_size=-1)), ConfigError, "min-size: is -1"),
        (lambda: sample_index(source, out, 5, 0), ConfigError, "images: is 5, must be from 1 to the 4 of"),
        (lambda: sample_index(source, out, 0, 0), ConfigError, "images: is 0"),
        (lambda: merge_indexes([source], out), ConfigError, "takes two or more"),
        (lambda: merge_indexes([source, source], out), DataError, r"a\.png: is in two of the indexes"),
        (lambda: sample_index(source, Path(source.path), 1, 0), DataError, "is what is read"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert not out.exists()
    assert Path(source.path).read_bytes() == before
    twice = index(tmp_path / "twice", "twice", {"a.png": []}, ["cat", "cat"])
    with pytest.raises(DataError, match="two of its classes have one name"):
        merge_indexes([source, twice], out)
