"""The picture of `odis inspect`: what is drawn is what a sample holds; any index; refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from odis.config.training import ModelConfig, ObjectsConfig, PretrainConfig, ViewsConfig
from odis.data.dataset import ViewDataset
from odis.errors import ConfigError, DataError
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.pictures.inspect import _example, _figure, inspect_picture
from odis.pictures.panels import SLOTS, Example, _outline, slots_of
from odis.types import ImageObjects, Object


def config(**changes) -> PretrainConfig:
    model = ModelConfig(
        "vit_tiny_patch16_224", None, "read-only", patch_size=8, embed_dim=32, depth=1, num_heads=2
    )
    views = ViewsConfig(global_size=32, local_size=16, local_views=4)
    return PretrainConfig(
        **({"model": model, "views": views, "objects": ObjectsConfig(per_image=2)} | changes)
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ObjectIndex:
    """Two images of 60 x 40: one with a box object, a mask object and a small one, one without objects."""
    folder = tmp_path_factory.mktemp("inspect")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[5:35, 30:34] = 1
    objects = (
        Object((3, 4, 30, 30), label=0),
        Object((30, 5, 34, 35), mask=rle.encode(mask), label=1),
        Object((50, 30, 70, 50)),
    )
    rows = [ImageObjects("a.png", 60, 40, objects), ImageObjects("b.png", 60, 40)]
    write_index(folder / "index.parquet", rows, root=folder, provenance="annotated", classes=["cat", "pole"])
    return ObjectIndex.open(folder / "index.parquet")


def example(index: ObjectIndex, row: int, settings: PretrainConfig, seed: int = 0) -> Example:
    settings.train.seed = seed
    dataset = ViewDataset(index, settings, 8)
    return _example(dataset, dataset[0, row])


def texts(ax: Axes) -> list[str]:
    return [t.get_text().strip() for t in ax.texts]


def boxes(ax: Axes, colour: str) -> list[tuple[float, float, float, float]]:
    found = [p for p in ax.patches if isinstance(p, Rectangle) and p.get_edgecolor()[:3] == to_rgb(colour)]
    return [(p.get_x(), p.get_y(), p.get_x() + p.get_width(), p.get_y() + p.get_height()) for p in found]


def tinted(ax: Axes, colour: str) -> list[np.ndarray]:
    """Where overlays of a colour are drawn."""
    overlays = [image.get_array() for image in ax.images if image.get_array().shape[2] == 4]
    return [np.asarray(o[..., 3] > 0) for o in overlays if np.allclose(o[0, 0, :3], to_rgb(colour))]


def test_a_row_shows_the_sample_that_training_would_take(index: ObjectIndex) -> None:
    settings = config()
    for seed in range(6):  # several draws: targets, hidden patches, objects that are not in a view
        drawn = example(index, 0, settings, seed)
        figure = _figure([drawn], index, settings, 8)
        assert isinstance(figure, Figure)
        objects, frames, *views = figure.axes[:-1]
        target, other = slots_of(drawn)
        items = index[0].objects
        assert boxes(objects, SLOTS[0]) == [items[target].box]  # drawn as annotated, also beyond the border
        assert boxes(objects, SLOTS[1]) == [items[other].box]
        assert any(t.endswith("(target)") for t in texts(objects))
        assert len(views) == 2 + 3
        shown = drawn.sample.global_views + drawn.sample.local_views[:3]
        assert boxes(frames, "white") == [(v.crop.x0, v.crop.y0, v.crop.x1, v.crop.y1) for v in shown]
        assert texts(frames) == ["g1", "g2", "l1", "l2", "l3"]
        for ax, view in zip(views, shown):
            count = view.pixels.shape[-1] // 8
            mean, std = map(torch.tensor, settings.views.statistics)
            np.testing.assert_allclose(
                ax.images[0].get_array(), (view.pixels.permute(1, 2, 0) * std + mean).clamp(0, 1), atol=1e-6
            )
            for slot in range(2):
                mask = view.object_masks[slot].view(count, count).numpy()
                expected = [mask] if view.visible[slot] and not mask.all() else []
                np.testing.assert_array_equal(tinted(ax, SLOTS[slot]), expected)
            assert ("not in this view" in ax.get_title()) == (not view.visible[0])
            assert ("mirrored" in ax.get_title()) == view.crop.flip
        for ax, hidden in zip(views, drawn.sample.prediction_masks):
            cells = [(p.get_y() / 8, p.get_x() / 8) for p in ax.patches if p.get_hatch()]
            assert cells == [tuple(c) for c in hidden.view(4, 4).nonzero().tolist()]


def test_masks_are_outlined_where_patches_change_sides() -> None:
    mask = np.array([[1, 0], [0, 0]], dtype=bool)
    ax = Figure().subplots()
    _outline(ax, mask, 8, "red")
    lines = {tuple(map(tuple, path.vertices.tolist())) for path in ax.collections[0].get_paths()}
    assert lines == {((0, 0), (8, 0)), ((0, 8), (8, 8)), ((0, 0), (0, 8)), ((8, 0), (8, 8))}


def test_an_image_without_objects_is_its_own_target(index: ObjectIndex) -> None:
    drawn = example(index, 1, config())
    axes = _figure([drawn], index, config(), 8).axes
    assert boxes(axes[0], SLOTS[0]) == [(0, 0, 60, 40)]
    assert texts(axes[0]) == ["whole image (target)"]
    assert "no objects" in axes[0].get_title()
    assert "object: all patches" in axes[2].get_title()


def test_settings_without_objects_or_masks_say_so(index: ObjectIndex) -> None:
    plain = config(objects=ObjectsConfig(use=False))
    axes = _figure([example(index, 0, plain)], index, plain, 8).axes
    assert "whole image (target)" in texts(axes[0])
    assert "no object masks" in " ".join(texts(axes[-1]))
    assert "the patches that [OBJ] reads" in " ".join(t.get_text() for t in axes[-1].get_legend().get_texts())
    assert "no object masks" not in " ".join(
        texts(_figure([example(index, 0, config())], index, config(), 8).axes[-1])
    )


def test_names_are_not_read_as_formulas(tmp_path: Path, index: ObjectIndex) -> None:
    Path(tmp_path / "$x^$.png").write_bytes(Path(index.image_path(0)).read_bytes())
    rows = [ImageObjects("$x^$.png", 60, 40, (Object((0, 0, 9, 9), label=0),))]
    write_index(tmp_path / "$_$.parquet", rows, root=tmp_path, provenance="annotated", classes=["$\\frac$"])
    inspect_picture(ObjectIndex.open(tmp_path / "$_$.parquet"), tmp_path / "a.png", config())
    assert (tmp_path / "a.png").exists()


def test_equal_boxes_take_one_slot_each(index: ObjectIndex) -> None:
    twins = ImageObjects("a.png", 60, 40, (Object((0, 0, 9, 9)), Object((0, 0, 9, 9)), Object((0, 0, 5, 5))))
    write_index(
        Path(index.path).with_name("twins.parquet"),
        [twins],
        root=index.root,
        provenance="annotated",
        classes=[],
    )
    twin_index = ObjectIndex.open(Path(index.path).with_name("twins.parquet"))
    assert len(slots_of(example(twin_index, 0, config(objects=ObjectsConfig(per_image=3))))) == 3


def test_the_picture_is_the_same_for_a_seed_and_another_for_another(
    tmp_path: Path, index: ObjectIndex
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert inspect_picture(index, tmp_path / "new" / f"{name}.png", config(), images=1, seed=seed) == []
    a, b, c = ((tmp_path / "new" / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.png", "b.png", "c.png"]
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.width > 3 * picture.height  # seven panels in one row, and the caption


def test_a_folder_with_one_image_and_one_that_cannot_be_read(tmp_path: Path, index: ObjectIndex) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"folder: none of its 1 image can be used; .*bad\.png: is empty"):
        inspect_picture(ObjectIndex.open(folder), tmp_path / "none.png", config())
    assert not (tmp_path / "none.png").exists()
    (folder / "good.png").write_bytes(Path(index.image_path(0)).read_bytes())
    skipped = inspect_picture(ObjectIndex.open(folder), tmp_path / "some.png", config())
    assert [s.what for s in skipped] == [str(folder / "bad.png")]
    assert (tmp_path / "some.png").exists()


def test_objects_that_cannot_be_used_are_left_out_and_named(tmp_path: Path, index: ObjectIndex) -> None:
    objects = (Object((9, 9, 2, 2)), Object((5, 5, 20, 20), label=0), Object((0, 0, 9, 9), mask=b"?"))
    rows = [ImageObjects("a.png", 60, 40, objects)]
    write_index(tmp_path / "index.parquet", rows, root=index.root, provenance="annotated", classes=["cat"])
    broken = ObjectIndex.open(tmp_path / "index.parquet")
    skipped = inspect_picture(broken, tmp_path / "a.png", config())
    assert [s.what for s in skipped] == [
        f"{index.image_path(0)}, object 0",
        f"{index.image_path(0)}, object 2",
    ]
    axes = _figure([example(broken, 0, config())], broken, config(), 8).axes
    assert boxes(axes[0], SLOTS[0]) == [(5, 5, 20, 20)]


def test_what_cannot_be_drawn_or_written_is_refused(tmp_path: Path, index: ObjectIndex) -> None:
    for changes, name in (
        ({"global_size": 30}, "model.patch_size"),
        ({"local_size": 20}, "views.local_size"),
    ):
        with pytest.raises(ConfigError, match=name):
            inspect_picture(
                index,
                tmp_path / "a.png",
                config(views=ViewsConfig(**({"global_size": 32, "local_size": 16} | changes))),
            )
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        inspect_picture(index, tmp_path / "file" / "a.png", config(), images=1)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_class_is_one_target_and_an_image_may_have_none(index: ObjectIndex) -> None:
    pair = ImageObjects(
        "a.png",
        60,
        40,
        tuple(Object((x, 0, x + 9, 9), label=label) for x, label in ((0, 0), (20, 0), (40, 1))),
    )
    write_index(
        Path(index.path).with_name("pair.parquet"), [pair], root=index.root, provenance="annotated",
        classes=["cat", "pole"],
    )  # fmt: skip
    pairs = ObjectIndex.open(Path(index.path).with_name("pair.parquet"))
    slots = slots_of(example(pairs, 0, config(objects=ObjectsConfig(unit="classes", per_image=2))))
    assert slots[0] == slots[1] != slots[2]
    never = config(objects=ObjectsConfig(target="first-crop", first_crop_coverage=0.9, per_image=2))
    drawn = example(pairs, 0, never)
    axes = _figure([drawn], pairs, never, 8).axes
    assert slots_of(drawn) == {}
    assert not any("(target)" in text for text in texts(axes[0]))
    assert all("not in this view" in ax.get_title() for ax in axes[2:-1])
