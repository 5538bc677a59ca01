"""Published data sets are divided once and for all, and patches are labelled by their maps."""

import numpy as np
import pytest
from PIL import Image

XML = """<annotation><filename>{name}.jpg</filename><size><width>48</width><height>40</height><depth>3</depth>
</size><object><name>{label}</name><bndbox><xmin>5</xmin><ymin>9</ymin><xmax>24</xmax><ymax>32</ymax></bndbox>
</object></annotation>"""


@pytest.fixture
def devkit(tmp_path):
    """Pascal VOC's layout: 12 train images and 4 val images of cats and dogs."""
    root = tmp_path / "VOC2012"
    lists = [f"ImageSets/{kind}" for kind in ("Main", "Segmentation")]
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", *lists):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        names = [f"{split}_{i:03d}" for i in range(count)]
        for i, name in enumerate(names):
            pixels = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
            (root / "Annotations" / f"{name}.xml").write_text(
                XML.format(name=name, label="cat" if i % 2 else "dog")
            )
            labels = np.zeros((40, 48), dtype=np.uint8)
            labels[8:32, 4:24] = 8 if i % 2 else 12
            Image.fromarray(labels).save(root / "SegmentationClass" / f"{name}.png")
        for folder in lists:
            (root / folder / f"{split}.txt").write_text("\n".join(names))
    return root


def test_the_parts_of_a_published_set_have_no_image_in_common(devkit, tmp_path):
    import worlds

    from odis.objects.sources import voc

    def read(split):
        return voc.read(devkit, split, pytest.fail)

    found = []
    for again in range(2):
        world = worlds.World("t", "", worlds.PATCHES_8, worlds._published(read, 3), 9, 3, 4, 128, 1)
        work = tmp_path / str(again)
        found.append(
            {part: [row.image for row in world.index(part, work)] for part in ("train", "choose", "test")}
        )
    one, two = found
    assert one == two
    assert sorted(one["train"] + one["choose"]) == [f"JPEGImages/train_{i:03d}.jpg" for i in range(12)]
    assert one["train"] == sorted(one["train"])
    assert one["test"] == [f"JPEGImages/val_{i:03d}.jpg" for i in range(4)]


def test_a_set_that_is_published_undivided_is_divided_by_a_draw(devkit, tmp_path):
    import worlds

    from odis.objects.sources import voc

    write = worlds._published(lambda _: voc.read(devkit, "train", pytest.fail), 4, undivided=True)
    transfer = worlds.Transfer("half", "", write, 8, 4)
    train, test = (
        {row.image for row in transfer.index(part, tmp_path / "work")} for part in ("train", "test")
    )
    assert (len(train), len(test), len(train & test)) == (8, 4, 0)


def test_patches_are_labelled_by_maps_where_there_are_some(devkit, tmp_path):
    import worlds

    world = worlds.worlds(worlds.Roots(voc=devkit))["voc"]
    labelled = world.labelled("test", tmp_path)
    assert [len(world.labelled(part, tmp_path)) for part in ("train", "test")] == [12, 4]
    assert [world.segmented(part, tmp_path).count for part in ("train", "test")] == [12, 4]
    for images in (labelled, world.segmented("test", tmp_path).images):
        _, labels, _ = images.read(1)
        assert np.unique(labels[8:32, 4:24]) == [8]
        assert labels.sum() == 8 * 24 * 20


def test_patches_are_labelled_by_boxes_where_there_are_no_maps(tmp_path):
    import worlds

    world = worlds.worlds()["scenes"].of_size(3)
    row = world.index("test", tmp_path)[0]
    _, labels, _ = world.segmented("test", tmp_path).images.read(0)
    covered = np.zeros(labels.shape, dtype=bool)
    for x0, y0, x1, y1 in row.boxes.round().astype(int):
        covered[y0:y1, x0:x1] = True
    assert ((labels > 0) == covered).all()
