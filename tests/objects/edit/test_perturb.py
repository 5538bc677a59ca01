import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.errors import ConfigError, DataError, OdisError
from odis.objects import rle
from odis.objects.check import problems
from odis.objects.clean import object_problem
from odis.objects.edit.perturb import Noise, perturb_index, perturb_row
from odis.objects.index import ObjectIndex, write_index
from odis.objects.table import to_batch
from odis.types import ImageObjects, Object, Skipped

MASK = rle.encode(np.pad(np.ones((20, 30), bool), ((10, 30), (5, 45))))  # in an image of 80 x 60
NAN = float("nan")
ALL = Noise(jitter=0.1, scale=0.1, drop=0.3, false_boxes=0.3)
N = 6_000


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def source(path: Path, rows: list[ImageObjects], **changes) -> ObjectIndex:
    write_index(
        path, rows, **{"root": path.parent, "provenance": "annotated", "classes": ["cat", "dog"], **changes}
    )
    return ObjectIndex.open(path)


def perturbed(row: ImageObjects, noise: Noise) -> ImageObjects:
    kept, false = perturb_row(row, noise, np.random.default_rng(noise.seed))
    return replace(row, objects=kept + false)


@st.composite
def usable_rows(draw: st.DrawFn) -> ImageObjects:
    """Images of any size with boxes of any size and place, also over the edges, but never wholly outside."""
    width, height = draw(st.integers(1, 5000)), draw(st.integers(1, 5000))
    finite = st.floats(-6000, 6000, width=32)
    objects = [
        Object((min(a, c), min(b, d), max(a, c), max(b, d)), label=draw(st.none() | st.integers(0, 1)))
        for a, b, c, d in draw(st.lists(st.tuples(finite, finite, finite, finite), max_size=6))
    ]
    return ImageObjects(
        "1.png", width, height, tuple(o for o in objects if object_problem(o, width, height) is None)
    )


amounts = st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]) | st.floats(0, 10)
noises = st.builds(Noise, amounts, amounts, st.floats(0, 1), amounts, st.integers(0, 2**40))


@settings(max_examples=120, deadline=None)
@given(usable_rows(), noises)
def test_every_box_can_be_used(row: ImageObjects, noise: Noise) -> None:
    result = perturbed(row, noise)
    for item in result.objects:
        assert object_problem(item, row.width, row.height) is None
        if item in row.objects and not noise.moves_boxes:
            continue  # not touched: may reach over the edge, as it did
        x0, y0, x1, y1 = item.box
        assert 0 <= x0 < x1 <= row.width
        assert 0 <= y0 < y1 <= row.height
        assert min(x1 - x0, y1 - y0) > 0.999  # a pixel, rounded to float32
        assert np.array_equal(np.float32(item.box), item.box)  # an index stores it as it is
    assert (result.image, result.width, result.height) == (row.image, row.width, row.height)
    assert result == perturbed(row, noise)


def test_a_box_pushed_out_of_the_image_stays_as_a_strip_at_its_edge() -> None:
    row = ImageObjects("1.png", 80, 60, (Object((38.0, 28.0, 42.0, 32.0), label=1),) * 1000)
    boxes = perturbed(row, Noise(jitter=10)).boxes
    strip = boxes[boxes[:, 0] == 79]
    assert len(strip) > 50
    assert np.all(strip[:, 2] == 80)


@settings(max_examples=60, deadline=None)
@given(usable_rows(), st.floats(0, 1), amounts, st.integers(0, 100))
def test_without_jitter_and_scale_kept_objects_are_the_same(
    row: ImageObjects, drop: float, false: float, seed: int
) -> None:
    row = replace(
        row, objects=tuple(replace(o, mask=b"%d" % k, score=0.1 * k) for k, o in enumerate(row.objects))
    )
    result = perturbed(row, Noise(drop=drop, false_boxes=false, seed=seed)).objects
    kept = [o for o in result if o.mask is not None]
    assert kept == [o for o in row.objects if o in kept]
    assert all((o.label, o.score) == (None, None) for o in result[len(kept) :])
    if drop == 0:
        assert kept == list(row.objects)


@pytest.mark.parametrize("noise", [Noise(jitter=0.01), Noise(scale=0.01)])
def test_a_box_that_moves_loses_its_mask_and_keeps_its_label_and_score(noise: Noise) -> None:
    row = ImageObjects(
        "1.png",
        80,
        60,
        (Object((5.0, 10.0, 35.0, 30.0), MASK, 1, 0.25), Object((0.0, 0.0, 80.0, 60.0), None, 0)),
    )
    first, second = perturbed(row, noise).objects
    assert (first.mask, first.label, first.score) == (None, 1, 0.25)
    assert (second.mask, second.label, second.score) == (None, 0, None)
    assert first.box == pytest.approx(row.objects[0].box, abs=2)
    assert first.box != row.objects[0].box


def test_labels_stay_with_their_boxes() -> None:
    objects = tuple(
        Object((100.0 * k + 20, 100.0, 100.0 * k + 80, 160.0), label=k, score=k / 8) for k in range(100)
    )
    result = perturbed(ImageObjects("1.png", 10_000, 300, objects), replace(ALL, false_boxes=0.0)).objects
    assert 50 < len(result) < 90
    for item in result:  # each box lies where its label says, though others were dropped
        assert item.label is not None
        assert (item.box[0] + item.box[2]) / 2 == pytest.approx(100 * item.label + 50, abs=40)
        assert item.score == item.label / 8


def moved(noise: Noise) -> np.ndarray:
    """Boxes of 40 x 20 around (5000, 3000), far from every edge, after noise."""
    item = Object((4980.0, 2990.0, 5020.0, 3010.0), label=0)
    return perturbed(ImageObjects("1.png", 10_000, 6000, (item,) * N), noise).boxes.astype(np.float64)


def test_jitter_moves_centres_by_its_share_of_the_sides() -> None:
    boxes = moved(Noise(jitter=0.2, seed=1))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 - [5000, 3000]
    # standard errors: sigma / sqrt(N) of a mean, sigma / sqrt(2 N) of a standard deviation; five of them are
    # allowed
    assert np.all(np.abs(centres.mean(0)) < 5 * np.array([8, 4]) / math.sqrt(N))
    assert centres.std(0) == pytest.approx([8, 4], rel=5 / math.sqrt(2 * N))
    assert abs(np.corrcoef(centres.T)[0, 1]) < 5 / math.sqrt(N)
    assert boxes[:, 2:] - boxes[:, :2] == pytest.approx(np.broadcast_to([40.0, 20.0], (N, 2)), abs=1e-2)


def test_scale_multiplies_each_side_by_itself_around_the_centre() -> None:
    boxes = moved(Noise(scale=0.3, seed=2))
    assert (boxes[:, :2] + boxes[:, 2:]) / 2 == pytest.approx(
        np.broadcast_to([5000.0, 3000.0], (N, 2)), abs=1e-2
    )
    factors = np.log((boxes[:, 2:] - boxes[:, :2]) / [40, 20])
    assert np.all(np.abs(factors.mean(0)) < 5 * 0.3 / math.sqrt(N))
    assert factors.std(0) == pytest.approx([0.3, 0.3], rel=5 / math.sqrt(2 * N))
    assert abs(np.corrcoef(factors.T)[0, 1]) < 5 / math.sqrt(N)


def test_a_box_that_shrinks_below_a_pixel_becomes_a_pixel_around_its_centre() -> None:
    (item,) = perturbed(
        ImageObjects("1.png", 80, 60, (Object((20.25, 30.25, 20.75, 30.75)),)), Noise(scale=1e-6)
    ).objects
    assert item.box == pytest.approx((20, 30, 21, 31))


def test_how_far_a_box_moves_says_nothing_about_its_size() -> None:
    boxes = moved(Noise(jitter=0.2, scale=0.2, seed=5))
    moves, sides = boxes[:, :2] + boxes[:, 2:], np.log(boxes[:, 2:] - boxes[:, :2])
    assert np.all(np.abs(np.corrcoef(moves.T, sides.T)[:2, 2:]) < 5 / math.sqrt(N))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_each_object_is_dropped_with_its_probability(share: float) -> None:
    kept = len(moved(Noise(drop=share, seed=3)))
    assert kept / N == pytest.approx(1 - share, abs=5 * math.sqrt(share * (1 - share) / N))


def test_no_object_and_every_object_is_dropped_at_the_ends() -> None:
    assert len(moved(Noise(drop=0.0, jitter=0.1))) == N
    assert len(moved(Noise(drop=1.0))) == 0


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0, 2.4])
@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_false_boxes_are_as_many_as_asked_of_the_objects_before_dropping(share: float, drop: float) -> None:
    row = ImageObjects("1.png", 800, 600, (Object((700.0, 0.0, 740.0, 20.0), MASK, 1, 0.5),) * N)
    noise = Noise(jitter=0.5, scale=0.5, drop=drop, false_boxes=share, seed=4)
    false = [o for o in perturbed(row, noise).objects if o.label is None]
    rest = share % 1
    assert len(false) / N == pytest.approx(share, abs=5 * math.sqrt(rest * (1 - rest) / N) + 1e-9)
    assert {(o.mask, o.score) for o in false} == {(None, None)}
    boxes = np.array([o.box for o in false])
    assert boxes[:, 2:] - boxes[:, :2] == pytest.approx(
        np.broadcast_to([40.0, 20.0], (len(false), 2)), abs=1e-3
    )
    places = boxes[:, :2] / [
        760,
        580,
    ]  # uniform among those inside the image: mean 1/2, standard deviation 1 / sqrt(12)
    assert np.all(np.abs(places.mean(0) - 0.5) < 5 / math.sqrt(12 * len(false)))
    assert places.std(0) == pytest.approx([1 / math.sqrt(12)] * 2, rel=5 / math.sqrt(2 * len(false)))
    assert places.min() >= 0
    assert places.max() <= 1


def test_false_boxes_have_the_sizes_of_the_objects_of_their_image() -> None:
    row = ImageObjects(
        "1.png",
        800,
        600,
        (Object((-10.0, 0.0, 30.0, 20.0), label=0), Object((5.0, 5.0, 205.0, 105.0), label=1)),
    )
    noise = Noise(jitter=1, scale=1, false_boxes=3)
    false = [o.box for o in perturbed(row, noise).objects if o.label is None]
    sizes = np.array(sorted((x1 - x0, y1 - y0) for x0, y0, x1, y1 in false))
    assert sizes == pytest.approx(np.array([(30.0, 20.0)] * 3 + [(200.0, 100.0)] * 3), abs=1e-3)
    assert perturbed(ImageObjects("1.png", 800, 600), noise).objects == ()


def test_amounts_under_one_seed_can_be_compared_in_pairs() -> None:
    base = np.array([4980.0, 2990.0, 5020.0, 3010.0])
    assert moved(Noise(jitter=0.2)) - base == pytest.approx(2 * (moved(Noise(jitter=0.1)) - base), abs=2e-3)
    objects = tuple(Object((k, k, k + 20.0, k + 20.0), label=0) for k in range(400))
    row = ImageObjects("1.png", 500, 500, objects)
    few, many = (set(perturbed(row, Noise(drop=drop)).objects) for drop in (0.5, 0.2))
    assert few < many
    few, many = (set(perturbed(row, Noise(false_boxes=false)).objects) for false in (0.3, 1.4))
    assert few < many


CONTENT = [
    ImageObjects(
        f"{i}.png",
        80,
        60,
        (Object((5.0, 10.0, 35.0, 30.0), MASK, i % 2, 0.5), Object((40.0, 20.0, 70.0, 50.0), None, 0)),
    )
    for i in range(50)
]


def test_the_noise_of_a_row_depends_on_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    whole = source(tmp_path / "i.parquet", CONTENT)
    less = source(tmp_path / "j.parquet", [ImageObjects("x.png", 7, 7), *CONTENT[1:10], CONTENT[3]])
    rows = {}
    for name, index, seed in (("a", whole, 0), ("b", whole, 0), ("less", less, 0), ("seed", whole, 1)):
        perturb_index(index, tmp_path / f"{name}.parquet", replace(ALL, seed=seed))
        rows[name] = list(ObjectIndex.open(tmp_path / f"{name}.parquet"))
    assert rows["a"] == rows["b"]
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert rows["less"][1:10] == rows["a"][1:10]
    assert rows["less"][10].objects != rows["a"][3].objects  # the same image in another row
    assert len({row.objects for row in rows["a"]}) > 40
    assert all(one != other for one, other in zip(rows["a"], rows["seed"]) if one.objects or other.objects)


def test_the_written_index_opens_with_its_images_and_an_account(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for row in CONTENT:
        Image.new("RGB", (80, 60)).save(data / "images" / row.image)
    index = source(data / "indices" / "i.parquet", CONTENT, root=data / "images", classes=["Katze", "Käfer"])
    summary = perturb_index(index, data / "noisy" / "n.parquet", ALL)
    noisy = ObjectIndex.open(data / "noisy" / "n.parquet", strict=True)
    assert (noisy.classes, noisy.root, len(noisy)) == (["Katze", "Käfer"], data / "images", 50)
    assert list(problems(noisy)) == []
    assert (
        noisy.provenance
        == summary.provenance
        == "annotated+noise(jitter=0.1,scale=0.1,drop=0.3,false=0.3,seed=0)"
    )
    objects = [o for row in noisy for o in row.objects]
    added = sum(o.label is None for o in objects)
    assert (summary.images, summary.images_skipped, summary.objects, summary.left_out) == (50, 0, 100, 0)
    assert (summary.kept, summary.dropped, summary.added) == (
        len(objects) - added,
        100 - len(objects) + added,
        added,
    )
    assert 55 < summary.kept < 85
    assert 15 < added < 45
    assert str(summary) == (
        f"{data / 'noisy' / 'n.parquet'}: 50 images (0 skipped), {summary.kept} of 100 objects kept "
        f"({summary.dropped} dropped, "
        f"0 unusable), {added} false boxes added, {noisy.provenance}"
    )
    data.rename(tmp_path / "moved")
    assert (
        ObjectIndex.open(tmp_path / "moved" / "noisy" / "n.parquet", strict=True).root
        == tmp_path / "moved" / "images"
    )


def test_dropped_and_false_objects_leave_masks_as_they_were(tmp_path: Path) -> None:
    index = source(tmp_path / "i.parquet", CONTENT)
    perturb_index(index, tmp_path / "n.parquet", Noise(drop=0.3, false_boxes=0.5))
    noisy = ObjectIndex.open(tmp_path / "n.parquet")
    masked = 0
    for before, after in zip(index, noisy, strict=True):
        kept = [o for o in after.objects if o.label is not None]
        assert kept == [o for o in before.objects if o in kept]
        masked += sum(o.mask == MASK for o in kept)
    assert 20 < masked < 50


def test_noise_on_noise_is_written_down_and_is_not_the_same_again(tmp_path: Path) -> None:
    index = source(
        tmp_path / "i.parquet",
        [ImageObjects("1.png", 10_000, 6000, (Object((4980.0, 2990.0, 5020.0, 3010.0)),) * 2000)],
    )
    noise = Noise(jitter=0.1, seed=7)
    perturb_index(index, tmp_path / "once.parquet", noise)
    once = ObjectIndex.open(tmp_path / "once.parquet")
    perturb_index(once, tmp_path / "twice.parquet", noise)
    twice = ObjectIndex.open(tmp_path / "twice.parquet")
    assert twice.provenance == "annotated+noise(jitter=0.1,seed=7)+noise(jitter=0.1,seed=7)"
    steps = (once[0].boxes - index[0].boxes)[:, 0], (twice[0].boxes - once[0].boxes)[:, 0]
    assert abs(np.corrcoef(*steps)[0, 1]) < 5 / math.sqrt(2000)


def test_objects_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path) -> None:
    good = Object((5.0, 10.0, 35.0, 30.0), None, 1)
    bad = [
        Object((NAN, 0.0, 1.0, 1.0), None, 0),
        Object((9.0, 9.0, 5.0, 12.0)),
        Object((5.0, 5.0, 5.0, 9.0)),
        Object((80.0, 0.0, 90.0, 9.0)),
        Object(good.box, b"abc"),
        Object(good.box, None, 0, NAN),
    ]
    index = source(
        tmp_path / "i.parquet",
        [ImageObjects("0.png", 80, 60, (good, *bad, good)), ImageObjects("1.png", 80, 60, tuple(bad))],
    )
    clean = source(
        tmp_path / "j.parquet", [ImageObjects("0.png", 80, 60, (good, good)), ImageObjects("1.png", 80, 60)]
    )
    skipped: list[Skipped] = []
    summary = perturb_index(
        index, tmp_path / "n.parquet", replace(ALL, false_boxes=2, drop=0.0), report=skipped.append
    )
    perturb_index(clean, tmp_path / "m.parquet", replace(ALL, false_boxes=2, drop=0.0))
    noisy = list(ObjectIndex.open(tmp_path / "n.parquet"))
    assert noisy == list(ObjectIndex.open(tmp_path / "m.parquet"))
    assert (summary.objects, summary.kept, summary.left_out, summary.added, summary.images) == (
        14,
        2,
        12,
        4,
        2,
    )
    assert "(0 dropped, 12 unusable)" in str(summary)
    assert len(skipped) == 12
    assert skipped[0].what == f"{tmp_path / '0.png'}, object 1"
    assert "is not finite" in skipped[0].why


def test_images_of_a_folder_get_boxes_and_broken_ones_are_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for k in range(20):
        (folder / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60)).save(folder / "ab"[k % 2] / f"{k:02}.png")
    perturb_index(ObjectIndex.open(folder), tmp_path / "whole.parquet", Noise(jitter=0.2, scale=0.2))
    (folder / "a" / "04.png").write_bytes(b"")
    skipped: list[Skipped] = []
    summary = perturb_index(
        ObjectIndex.open(folder), tmp_path / "n.parquet", Noise(jitter=0.2, scale=0.2), report=skipped.append
    )
    noisy = ObjectIndex.open(tmp_path / "n.parquet", strict=True)
    assert [(s.what, s.why) for s in skipped] == [(str(folder / "a" / "04.png"), "is empty (0 bytes)")]
    assert (summary.images, summary.images_skipped, summary.kept, len(noisy)) == (19, 1, 19, 19)
    assert (noisy.provenance, noisy.classes) == ("whole-image+noise(jitter=0.2,scale=0.2,seed=0)", ["a", "b"])
    assert {row.objects[0].label for row in noisy if row.image.startswith("b/")} == {1}
    assert sum(row.objects[0].box == (0, 0, 80, 60) for row in noisy) < 5
    before = {row.image: row for row in ObjectIndex.open(tmp_path / "whole.parquet", root=folder)}
    assert all(row == before[row.image] for row in noisy)  # the skipped image keeps its row number


def test_an_index_that_cannot_be_read_is_not_skipped_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = source(tmp_path / "i.parquet", CONTENT)

    def damaged(self: ObjectIndex, i: int) -> ImageObjects:
        if i == 3:
            raise DataError(f"{self.path}: is damaged")
        return CONTENT[i]

    monkeypatch.setattr(ObjectIndex, "__getitem__", damaged)
    with pytest.raises(DataError, match=r"i\.parquet: is damaged"):
        perturb_index(index, tmp_path / "n.parquet", ALL)
    assert os.listdir(tmp_path) == ["i.parquet"]


def test_without_an_image_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").touch()
    with pytest.raises(DataError, match=r"no image that can be used; the first: .*1\.png: is empty"):
        perturb_index(ObjectIndex.open(tmp_path / "images"), tmp_path / "n.parquet", ALL)
    with pytest.raises(DataError, match=r"i\.parquet: no image that can be used$"):
        perturb_index(source(tmp_path / "i.parquet", []), tmp_path / "n.parquet", ALL)
    assert sorted(os.listdir(tmp_path)) == ["i.parquet", "images"]


def test_rows_are_read_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = source(tmp_path / "i.parquet", CONTENT)
    read, written = [], []
    monkeypatch.setattr("odis.objects.index._ROW_GROUP", 10)
    monkeypatch.setattr(ObjectIndex, "__getitem__", lambda self, i: read.append(i) or CONTENT[i])
    monkeypatch.setattr(
        "odis.objects.index.to_batch",
        lambda rows, schema: written.append(len(read)) or to_batch(rows, schema),
    )
    perturb_index(index, tmp_path / "n.parquet", ALL)
    assert written == [10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        (Noise(), "jitter, scale, drop, false: are all 0, so nothing would change; give at least one"),
        (Noise(seed=3), "jitter, scale, drop, false: are all 0, so nothing would change; give at least one"),
        (Noise(jitter=-0.1), "jitter: is -0.1, must be from 0 to 10"),
        (Noise(jitter=10.5), "jitter: is 10.5, must be from 0 to 10"),
        (Noise(jitter=NAN), "jitter: is nan, must be from 0 to 10"),
        (Noise(scale=float("inf")), "scale: is inf, must be from 0 to 10"),
        (Noise(drop=1.01), "drop: is 1.01, must be from 0 to 1"),
        (Noise(drop=-1), "drop: is -1, must be from 0 to 1"),
        (Noise(false_boxes=11), "false: is 11, must be from 0 to 10"),
        (Noise(jitter=0.1, seed=-1), "seed: is -1, must be 0 or more"),
    ],
)
def test_amounts_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, noise: Noise, text: str
) -> None:
    with pytest.raises(ConfigError) as error:
        perturb_index(source(tmp_path / "i.parquet", CONTENT), tmp_path / "n.parquet", noise)
    assert str(error.value) == text
    assert os.listdir(tmp_path) == ["i.parquet"]


def test_amounts_at_the_ends_are_allowed_and_described() -> None:
    noise = Noise(10, 10.0, 1, 10, 2**40)
    noise.check()
    assert noise.describe() == "noise(jitter=10,scale=10,drop=1,false=10,seed=1099511627776)"
    assert Noise(drop=1 / 3, seed=5).describe() == "noise(drop=0.333333333333,seed=5)"


def test_the_source_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = source(tmp_path / "i.parquet", CONTENT)
    content = (tmp_path / "i.parquet").read_bytes()
    (tmp_path / "link.parquet").symlink_to(tmp_path / "i.parquet")
    monkeypatch.chdir(tmp_path)
    for out in (
        tmp_path / "i.parquet",
        Path("i.parquet"),
        tmp_path / "link.parquet",
        tmp_path / ".." / tmp_path.name / "i.parquet",
    ):
        with pytest.raises(
            OdisError, match=r"is the index that is read; write the noisy index to another file"
        ):
            perturb_index(index, out, ALL)
        with pytest.raises(OdisError, match=r"is the index that is read"):
            perturb_index(ObjectIndex.open(tmp_path / "link.parquet"), out, ALL)
    assert (tmp_path / "i.parquet").read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["i.parquet", "link.parquet"]


def test_a_noisy_index_may_replace_another_file_but_not_join_the_folder_it_is_read_from(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        source(tmp_path / "parts" / f"{name}.parquet", CONTENT, root=tmp_path)
    index = ObjectIndex.open(tmp_path / "parts")
    for out in ("a.parquet", "new.parquet", "deeper/new.parquet"):
        with pytest.raises(
            DataError, match=r"is inside .*parts, the index that is read; write the noisy index elsewhere"
        ):
            perturb_index(index, tmp_path / "parts" / out, ALL)
    (tmp_path / "n.parquet").touch()
    assert perturb_index(index, tmp_path / "n.parquet", ALL).images == 100
    assert len(ObjectIndex.open(tmp_path / "n.parquet")) == 100
