"""What each mode shows the network and which patches it asks about; geometry of grids and windows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from odis.data.augment.cpu import to_chw
from odis.data.pixels.decode import Decoded
from odis.data.views import resized_crop
from odis.inference.queries import IndexRows, Query, QueryBuilder, _outwards, _window
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.types import Crop, ImageObjects, Object


def render(image: Decoded, crop: Crop, size: int) -> torch.Tensor:
    """A crop as a view: uint8 (3, size, size)."""
    return torch.from_numpy(to_chw(resized_crop(image, crop, size), crop.flip)).to(torch.uint8)


def builder(mode: str = "masked-attention", **changes) -> QueryBuilder:
    settings = {
        "size": 32,
        "context": None,
        "patch": 8,
        "coverage": 0.5,
        "margin": 0,
        "mask_shape": "area",
        "one_each": False,
        "fill": (124, 116, 104),
    }
    return QueryBuilder(mode=mode, **(settings | changes))


def picture(width: int, height: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def resized(image: torch.Tensor, height: int, width: int) -> np.ndarray:
    return tv.resize(
        image, [height, width], interpolation=tv.InterpolationMode.BICUBIC, antialias=True
    ).numpy()


def only(queries: list[Query]) -> Query:
    assert len(queries) == 1
    return queries[0]


def test_masked_attention_shows_the_whole_image_and_asks_all_objects_at_once() -> None:
    image = picture(128, 32)  # 4 : 1, so 2 x 8 patches of 8 pixels have the area of 32 x 32
    query = only(
        builder()(image, [Object((0, 0, 16, 16)), Object((112, 16, 128, 32)), Object((0, 0, 128, 32))])
    )
    np.testing.assert_array_equal(query.pixels, resized(image, 16, 64))
    expected = np.zeros((3, 2, 8), dtype=bool)
    expected[0, 0, 0] = expected[1, 1, 7] = True
    expected[2] = True
    np.testing.assert_array_equal(query.masks.reshape(3, 2, 8), expected)


def test_one_each_asks_the_same_objects_one_by_one() -> None:
    image, objects = picture(40, 24), [Object((0, 0, 12, 20)), Object((20, 4, 40, 24)), Object((1, 1, 3, 2))]
    together, apart = only(builder()(image, objects)), builder(one_each=True)(image, objects)
    assert all(np.array_equal(q.pixels, together.pixels) for q in apart)
    np.testing.assert_array_equal(np.concatenate([q.masks for q in apart]), together.masks)


def test_coverage_and_margin_are_those_of_training() -> None:
    image, item = (
        picture(32, 32),
        Object((8, 8, 20, 20)),
    )  # covers patch (1, 1) wholly, its neighbours half, (2, 2) by a quarter
    patches = {c: only(builder(coverage=c)(image, [item])).masks.sum() for c in (0.2, 0.5, 0.6)}
    assert patches == {0.2: 4, 0.5: 3, 0.6: 1}
    assert only(builder(coverage=0.6, margin=1)(image, [item])).masks.sum() == 9


def test_a_mask_says_more_than_its_box_and_is_not_widened() -> None:
    image = picture(32, 32)
    pixels = np.zeros((32, 32), dtype=np.uint8)
    pixels[:8, :] = pixels[:, :8] = 1  # an L
    item = Object((0, 0, 32, 32), mask=rle.encode(pixels))
    mask = only(builder(margin=1)(image, [item])).masks.reshape(4, 4)
    expected = np.zeros((4, 4), dtype=bool)
    expected[0] = expected[:, 0] = True
    np.testing.assert_array_equal(mask, expected)


def test_a_tiny_object_keeps_a_patch() -> None:
    assert only(builder()(picture(640, 480), [Object((3, 3, 4, 4))])).masks.sum() == 1


def test_crop_shows_the_pixels_the_box_touches() -> None:
    image = picture(50, 40)
    query = only(builder("crop")(image, [Object((9.5, 4.0, 30.0, 20.2))]))
    np.testing.assert_array_equal(query.pixels, resized(image[:, 4:21, 9:30], 32, 32))
    assert query.masks.shape == (1, 16)
    assert query.masks.all()


def test_crop_of_a_box_that_reaches_over_the_edge_is_clipped() -> None:
    image = picture(50, 40)
    query = only(builder("crop")(image, [Object((-10, 30, 20, 99))]))
    np.testing.assert_array_equal(query.pixels, resized(image[:, 30:40, :20], 32, 32))


def test_square_crops_are_rendered_as_training_renders_them() -> None:
    image = picture(50, 40)
    query = only(builder("crop")(image, [Object((5, 7, 29, 31))]))
    assert torch.equal(torch.from_numpy(query.pixels), render(Decoded(image), Crop(5, 7, 29, 31), 32))


def test_blackout_leaves_the_box_alone_and_paints_the_rest() -> None:
    image = picture(32, 32)
    query = only(builder("blackout")(image, [Object((8, 16, 20, 32))]))
    expected = torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None].repeat(1, 32, 32)
    expected[:, 16:32, 8:20] = image[:, 16:32, 8:20]
    np.testing.assert_array_equal(query.pixels, expected.numpy())
    assert query.masks.all()


def test_whole_image_asks_once_for_all_objects() -> None:
    query = only(builder("whole-image")(picture(32, 32), [Object((0, 0, 4, 4)), Object((8, 8, 16, 16))]))
    assert query.masks.shape == (1, 16)
    assert query.masks.all()


def test_context_asks_in_a_window_of_the_object() -> None:
    image, item = picture(200, 100), Object((90, 40, 106, 48))
    query = only(builder(context=2.0)(image, [item]))  # a window of 32 x 32 pixels around (98, 44)
    np.testing.assert_array_equal(query.pixels, image[:, 28:60, 82:114].numpy())
    expected = np.zeros((4, 4), dtype=bool)
    expected[2, 1:3] = expected[1, 1:3] = True  # rows 12..20 of the window: half of two patches each
    np.testing.assert_array_equal(query.masks.reshape(4, 4), expected)


boxes = st.tuples(st.integers(1, 400), st.integers(1, 400)).flatmap(
    lambda size: st.tuples(
        st.just(size),
        st.tuples(
            st.floats(-20, size[0] - 0.5),
            st.floats(-20, size[1] - 0.5),
            st.floats(0.5, 300),
            st.floats(0.5, 300),
        ),
    )
)


@given(boxes, st.floats(1, 8))
def test_windows_hold_their_object_and_stay_in_the_image(case, context: float) -> None:
    (width, height), (x0, y0, w, h) = case
    item = Object((max(x0, -w / 2), max(y0, -h / 2), max(x0, -w / 2) + w, max(y0, -h / 2) + h))
    box, window = _outwards(item, width, height), _window(item, context, width, height)
    assert 0 <= window.x0 <= box.x0 < box.x1 <= window.x1 <= width
    assert 0 <= window.y0 <= box.y0 < box.y1 <= window.y1 <= height
    side = round(context * max(box.width, box.height))
    assert (window.width, window.height) == (min(side, width), min(side, height))


def test_rows_of_an_index_name_what_they_leave_out(tmp_path: Path) -> None:
    Image.fromarray(picture(32, 32).permute(1, 2, 0).numpy()).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:300])
    objects = (Object((0, 0, 8, 8), label=1), Object((9, 9, 4, 4), label=0), Object((8, 8, 32, 32)))
    rows = [
        ImageObjects("good.png", 32, 32, objects),
        ImageObjects("cut.png", 32, 32, objects),
        ImageObjects("good.png", 30, 32, objects),
    ]
    write_index(tmp_path / "index.parquet", rows, root=tmp_path, provenance="annotated", classes=["a", "b"])
    items = IndexRows(ObjectIndex.open(tmp_path / "index.parquet"), [2, 0, 1], builder())
    size, good, cut = (items[i] for i in range(len(items)))
    assert (good.numbers, good.labels, good.read, len(good.queries)) == ([0, 2], [(1,), ()], True, 1)
    assert [(s.what, s.why) for s in good.skipped] == [
        (f"{tmp_path}/good.png, object 1", "box (9, 9, 4, 4) is inverted")
    ]
    for item, name, why in ((cut, "cut.png", "decoded"), (size, "good.png", "is 32 x 32 pixels")):
        assert (item.queries, item.labels, item.read) == ([], [], False)
        assert item.skipped[0].what == f"{tmp_path}/{name}"
        assert why in item.skipped[0].why


def test_an_image_as_one_object_has_the_labels_of_all_its_usable_objects(tmp_path: Path) -> None:
    Image.fromarray(picture(32, 16).permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    several = (
        Object((0, 0, 8, 8), label=2),
        Object((9, 9, 4, 4), label=1),
        Object((8, 8, 32, 16)),
        Object((0, 0, 9, 9), label=0),
    )
    rows = [ImageObjects("a.png", 32, 16, objects) for objects in (several, several[2:3], ())]
    write_index(
        tmp_path / "index.parquet", rows, root=tmp_path, provenance="annotated", classes=["a", "b", "c"]
    )
    items = IndexRows(ObjectIndex.open(tmp_path / "index.parquet"), range(3), builder(), images=True)
    assert [items[i].labels for i in range(3)] == [[(0, 2)], [()], [()]]
    for i in range(3):
        assert (items[i].numbers, items[i].boxes) == ([-1], [(0.0, 0.0, 32.0, 16.0)])
        assert only(items[i].queries).masks.all()


def test_a_network_of_one_shape_sees_squares() -> None:
    image = picture(128, 32)
    query = only(builder(square=(4, 4))(image, [Object((0, 0, 32, 32))]))
    np.testing.assert_array_equal(query.pixels, resized(image, 32, 32))
    np.testing.assert_array_equal(query.masks.reshape(4, 4), np.eye(4, dtype=bool)[:1].repeat(4, 0))
    odd = only(builder(square=(3, 5))(image, [Object((0, 0, 32, 32))]))  # a map that does not tile its pixels
    assert (odd.pixels.shape, odd.masks.shape) == ((3, 32, 32), (1, 15))


@pytest.mark.parametrize(("mode", "context"), [("crop", None), ("masked-attention", 1.5), ("blackout", None)])
def test_the_frame_is_what_the_query_shows(mode: str, context: float | None) -> None:
    """Of an image whose pixels say where they are: the mean of the query is that of the frame."""
    y, x = np.mgrid[:60, :90]
    image = torch.from_numpy(np.stack([x, y, 0 * x]).astype(np.uint8))
    item = Object((20.0, 10.0, 50.0, 30.0))
    made = builder(mode=mode, context=context)
    frame = made.frame(item, 90, 60)
    (query,) = made(image, [item])
    if mode == "blackout":
        assert (frame.x0, frame.y0, frame.x1, frame.y1) == (0, 0, 90, 60)
        return
    shown = query.pixels.reshape(3, -1).mean(axis=1)[:2]
    middle = [(frame.x0 + frame.x1 - 1) / 2, (frame.y0 + frame.y1 - 1) / 2]
    np.testing.assert_allclose(shown, middle, atol=0.6)  # pixels are rounded to whole numbers
