"""Every published layout, made small, with the labels written out by hand."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.errors import DataError, OdisError
from odis.evaluation.label_layouts import VOC_CLASSES
from odis.evaluation.label_maps import IGNORE
from odis.evaluation.protocols.layouts.coco_stuff import SUPER_CLASSES
from odis.evaluation.protocols.layouts.plain_maps import CAMVID
from odis.evaluation.protocols.layouts.segmentation import open_segmented, rows_of_list

MAP = [[0, 1, 2], [3, 20, 255]]


def picture(path: Path, size: tuple[int, int] = (3, 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)


def label_map(path: Path, values, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(values, np.uint8))
    if mode == "P":
        image.putpalette([i % 256 for i in range(768)])
    image.save(path)


def labels(part, i: int = 0) -> list[list[int]]:
    return part.images.read(i)[1].tolist()


def voc(root: Path, *, images: str = "JPEGImages", lists: str = "ImageSets/Segmentation") -> Path:
    for name in ("2007_000032", "2007_000033", "2008_000001"):
        picture(root / images / f"{name}.jpg")
    label_map(root / "SegmentationClass" / "2007_000032.png", MAP, "P")
    label_map(root / "SegmentationClass" / "2007_000033.png", [[5, 5, 5], [5, 5, 5]], "P")
    label_map(root / "SegmentationClassAug" / "2007_000032.png", [[7, 7, 7], [7, 7, 7]])
    label_map(root / "SegmentationClassAug" / "2008_000001.png", [[8, 8, 8], [8, 8, 8]])
    (root / lists).mkdir(parents=True)
    (root / lists / "train.txt").write_text("2007_000032\n")
    (root / lists / "val.txt").write_text("2007_000033\n")
    aug = "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n2008_000001\n"
    (root / lists / "trainaug.txt").write_text(aug)
    return root


@pytest.mark.parametrize("below", ["", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("form", [("JPEGImages", "ImageSets/Segmentation"), ("images", "sets")])
def test_voc_has_its_lists_and_the_larger_train_part(tmp_path: Path, below: str, form: tuple[str, str]):
    voc(tmp_path / below, images=form[0], lists=form[1])
    train = open_segmented(tmp_path, "", part="train")
    assert train.layout == "voc"
    assert train.images.classes == list(VOC_CLASSES) == train.published_classes
    assert train.names == ["2007_000032", "2008_000001"]
    assert labels(train) == [[7] * 3] * 2
    assert labels(train, 1) == [[8] * 3] * 2
    assert labels(open_segmented(tmp_path, "train", part="train")) == [[0, 1, 2], [3, 20, IGNORE]]
    assert labels(open_segmented(tmp_path, "", part="val")) == [[5] * 3] * 2
    with pytest.raises(
        DataError, match=r"nowhere.txt: no such file; splits that are there: train, trainaug, val"
    ):
        open_segmented(tmp_path, "nowhere", part="train")


def test_lists_of_fractions_name_images_in_any_form(tmp_path: Path):
    train = open_segmented(voc(tmp_path / "voc"), "", part="train")
    file = tmp_path / "trainaug_8_42.txt"
    for text in ("2008_000001\n2007_000032", "JPEGImages\\2008_000001.jpg\n\n2007_000032.png x\n"):
        file.write_text(text)
        assert rows_of_list(train, file) == [0, 1]
    for text, said in {
        "2008_000001\n2009_9": "names '2009_9', which",
        "2008_000001\n2008_000001": "names '2008_000001' twice",
        "\n": "lists no images",
    }.items():
        file.write_text(text)
        with pytest.raises(DataError, match=said):
            rows_of_list(train, file)
    with pytest.raises(DataError, match=r"gone.txt: cannot be read"):
        rows_of_list(train, tmp_path / "gone.txt")


def test_ade20k_leaves_out_its_zero_which_the_reference_counts_as_a_class(tmp_path: Path):
    root = tmp_path / "ADEChallengeData2016"
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        picture(root / "images" / split / f"{name}.jpg")
        label_map(root / "annotations" / split / f"{name}.png", [[0, 1, 2], [3, 150, 12]])
    rows = "\n".join(f"{i}\t0.1\t1\t1\tname {i}" for i in range(1, 151))
    (root / "objectInfo150.txt").write_text(f"Idx\tRatio\tTrain\tVal\tName\n{rows}\n")
    for part in ("train", "val"):
        found = open_segmented(tmp_path, "", part=part)
        assert labels(found) == [[IGNORE, 0, 1], [2, 149, 11]]
        assert found.images.classes[0] == "name 1"
        assert found.published_classes == ["unlabelled", *found.images.classes]


def test_cityscapes_has_19_of_its_34_ids(tmp_path: Path):
    root = tmp_path / "cityscapes"
    for split, city in (("train", "aachen"), ("val", "frankfurt")):
        for i in (1, 0):
            name = f"{city}_00000{i}_000019"
            picture(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            label_map(
                root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", [[7, 8, 0], [33, 255, 31]]
            )
            label_map(root / "gtFine" / split / city / f"{name}_gtFine_color.png", [[0, 0, 0], [0, 0, 0]])
    found = open_segmented(tmp_path, "", part="val")
    assert found.layout == "cityscapes"
    assert found.names == ["frankfurt_000000_000019", "frankfurt_000001_000019"]
    assert labels(found) == [[0, 1, IGNORE], [18, IGNORE, 16]]
    assert len(found.images.classes) == 19
    (tmp_path / "l.txt").write_text("frankfurt/frankfurt_000001_000019_leftImg8bit.png")
    assert rows_of_list(found, tmp_path / "l.txt") == [1]


def test_super_classes_hold_every_id_of_coco_stuff_once():
    ids = [i for of in SUPER_CLASSES["all"].values() for i in of]
    assert sorted(ids) == list(range(1, 183))
    assert [len(SUPER_CLASSES[target]) for target in ("things", "stuff", "all")] == [12, 15, 27]
    assert list(SUPER_CLASSES["stuff"]) == sorted(SUPER_CLASSES["stuff"])
    assert 17 in SUPER_CLASSES["things"]["animal"]  # cat
    assert 157 in SUPER_CLASSES["stuff"]["sky"]  # sky-other


@pytest.mark.parametrize("images", ["train2017", "images/train2017"])
def test_coco_stuff_is_read_from_both_of_its_releases(tmp_path: Path, images: str):
    things, stuff = list(SUPER_CLASSES["things"]), list(SUPER_CLASSES["stuff"])
    animal, sky = things.index("animal"), stuff.index("sky")
    picture(tmp_path / images / "000000000009.jpg")
    maps = tmp_path / "annotations" / "stuff_annotations" / "stuff_train2017_pixelmaps"
    label_map(maps / "000000000009.png", [[0, 157, 183], [106, 0, 0]])
    found = open_segmented(tmp_path, "", part="train")
    assert found.images.classes == stuff
    assert labels(found) == [[IGNORE, sky, IGNORE], [sky, IGNORE, IGNORE]]
    with pytest.raises(DataError, match=r"has no things; --target things needs stuffthingmaps"):
        open_segmented(tmp_path, "", part="train", target="things")
    for file in maps.iterdir():
        file.unlink()
    maps.rmdir()
    with pytest.raises(DataError, match="has no maps of COCO-Stuff for train2017"):
        open_segmented(tmp_path, "train2017", part="train")
    label_map(
        tmp_path / "stuffthingmaps_trainval2017/train2017/000000000009.png", [[16, 156, 255], [0, 181, 91]]
    )
    assert labels(open_segmented(tmp_path, "", part="train", target="things")) == [
        [animal, IGNORE, IGNORE],
        [things.index("person"), IGNORE, IGNORE],
    ]
    both = labels(open_segmented(tmp_path, "", part="train", target="all"))
    assert both == [[animal, 12 + sky, IGNORE], [9, 12 + stuff.index("solid"), 12 + stuff.index("textile")]]
    with pytest.raises(OdisError, match="target 'objects' must be one of things, stuff, all"):
        open_segmented(tmp_path, "", part="train", target="objects")


def test_camvid_is_told_by_its_folders_and_its_name(tmp_path: Path):
    root = tmp_path / "CamVid"
    for split in ("train", "val"):
        picture(root / split / "0001TP_006690.jpg")
        label_map(root / f"{split}annot" / "0001TP_006690.png", [[0, 1, 10], [11, 8, 3]], "P")
    found = open_segmented(tmp_path, "", part="val")
    assert found.images.classes == list(CAMVID[:-1])
    assert labels(found) == [[0, 1, 10], [IGNORE, 8, 3]]


@pytest.mark.parametrize(
    ("images", "maps"),
    [
        ("images/train", "labels/train"),
        ("train/images", "train/masks"),
        ("images", "annotations"),
        ("JPEGImages", "SegmentationClassPNG"),
    ],
)
def test_plain_label_maps_lie_where_tools_put_them(tmp_path: Path, images: str, maps: str):
    picture(tmp_path / images / "a.png")
    picture(tmp_path / images / "b.jpg")
    label_map(tmp_path / maps / "a_mask.png", [[0, 1, 2], [2, 1, 255]])
    label_map(tmp_path / maps / "b.png", [[0, 1, 2], [2, 1, 0]])
    found = open_segmented(tmp_path, "", part="train")
    assert found.images.classes == ["class 0", "class 1", "class 2"]
    assert labels(found) == [[0, 1, 2], [2, 1, IGNORE]]
    assert labels(open_segmented(tmp_path, "", part="train", ignore=(1,))) == [
        [0, IGNORE, 1],
        [1, IGNORE, IGNORE],
    ]
    (tmp_path / "class_names.txt").write_text("_background_\nvoid\ncell\n")
    found = open_segmented(tmp_path, "", part="train")
    assert found.images.classes == ["_background_", "cell"]
    assert labels(found) == [[0, IGNORE, 1], [1, IGNORE, IGNORE]]
    (tmp_path / "class_names.txt").write_text("_background_\ncell\n")
    with pytest.raises(DataError, match=r"a_mask.png: has the value 2; its values may be 0 to 1 and 255"):
        labels(open_segmented(tmp_path, "", part="train"))


def test_a_list_beside_flat_folders_chooses_a_split(tmp_path: Path):
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.png")
        label_map(tmp_path / "labels" / f"{name}.png", [[0, 1, 2], [2, 1, 0]])
    assert open_segmented(tmp_path, "", part="val").names == ["a", "b", "c"]
    (tmp_path / "val.txt").write_text("c\n")
    assert open_segmented(tmp_path, "", part="val").names == ["c"]
    assert open_segmented(tmp_path, "val", part="train").names == ["c"]
    with pytest.raises(DataError, match="no pixel labels of the split 'test' in a known layout"):
        open_segmented(tmp_path, "test", part="val")


def test_cvats_labelmap_gives_names_and_colours(tmp_path: Path):
    picture(tmp_path / "JPEGImages" / "a.jpg")
    pixels = np.array(
        [[[0, 0, 0], [128, 0, 0], [0, 128, 0]], [[0, 128, 0], [128, 0, 0], [0, 0, 0]]], np.uint8
    )
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("a\n")
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\nunlabelled:0,128,0::\n"
    (tmp_path / "labelmap.txt").write_text(text)
    for made in (Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBA")):
        made.save(tmp_path / "SegmentationClass" / "a.png")
        found = open_segmented(tmp_path, "", part="train")
        assert found.images.classes == ["background", "cat"]
        assert labels(found) == [[0, 1, IGNORE], [IGNORE, 1, 0]]
    label_map(tmp_path / "SegmentationClass" / "a.png", [[0, 1, 2], [2, 1, 0]], "P")
    assert labels(open_segmented(tmp_path, "default", part="train")) == [[0, 1, IGNORE], [IGNORE, 1, 0]]
    Image.fromarray(pixels + 1).save(tmp_path / "SegmentationClass" / "a.png")
    with pytest.raises(DataError, match=r"a.png: has the colour 1,1,1, which labelmap.txt does not list"):
        labels(open_segmented(tmp_path, "", part="train"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("class_names.txt", "", "names 0 classes"),
        ("class_names.txt", "a\na\n", "names 'a' twice"),
        ("labelmap.txt", "a:1,2,3::\nb:::\n", "some classes have no colour"),
        ("labelmap.txt", "a:1,2,3::\nb:1,2,3::\n", "two have the same"),
        ("class_names.txt", "void\n", "names no class"),
    ],
)
def test_a_class_list_that_cannot_be_right_is_one_line(tmp_path: Path, name: str, text: str, said: str):
    picture(tmp_path / "images" / "a.png")
    label_map(tmp_path / "labels" / "a.png", [[0, 1, 2], [2, 1, 0]])
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        open_segmented(tmp_path, "", part="train")
    assert "\n" not in str(caught.value)


def test_an_object_index_is_a_part_too(squares, tmp_path: Path):
    squares(tmp_path / "s", ["red", "green"], 3)
    found = open_segmented(tmp_path / "s" / "index.parquet", "", part="train", boxes=True)
    assert found.layout == "index"
    assert found.images.classes == ["background", "red", "green"]
    assert set(np.unique(found.images.read(0)[1])) <= {1, 2}


def test_nothing_known_and_too_much_are_one_line(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder"):
        open_segmented(tmp_path / "gone", "", part="train")
    with pytest.raises(DataError, match="no pixel labels of the split 'train' in a known layout"):
        open_segmented(tmp_path, "", part="train")
    for name in ("one", "two"):
        voc(tmp_path / name)
    with pytest.raises(DataError, match="holds 2 data sets; name one of"):
        open_segmented(tmp_path, "", part="train")


@given(st.binary(max_size=60))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_as_a_list_or_class_file_are_read_or_refused(tmp_path: Path, content: bytes):
    picture(tmp_path / "images" / "a.png")
    label_map(tmp_path / "labels" / "a.png", [[0, 1, 2], [2, 1, 0]])
    for name in ("class_names.txt", "labelmap.txt", "train.txt"):
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(DataError):
            assert len(open_segmented(tmp_path, "", part="train").images.classes) >= 1
        (tmp_path / name).unlink()
