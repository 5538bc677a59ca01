"""Images with one class each: class folders, an index, ImageNet's flat validation part with each of its label
files.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.errors import DataError
from odis.evaluation.protocols.layouts.classified import open_classified
from odis.objects.index import write_index
from odis.types import ImageObjects, Object

WNIDS = ["n01440764", "n02123045", "n04285008"]
OF_IMAGE = [2, 0, 1, 0]  # class of ILSVRC2012_val_0000000k


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for k in range(len(OF_IMAGE)):
        image(tmp_path / "val" / f"ILSVRC2012_val_0000000{k + 1}.JPEG")
    return tmp_path / "val"


def test_class_folders(tmp_path: Path):
    for name in ("val", "train", "bus"):  # classes may be called like splits
        image(tmp_path / name / "a.jpg")
    found = open_classified(tmp_path)
    assert found.classes == ["bus", "train", "val"]
    assert found.labels.tolist() == [0, 1, 2]
    assert [Path(p).parent.name for p in found.paths] == found.classes


def test_an_index_takes_part_with_images_of_one_label(tmp_path: Path):
    whole = (0.0, 0.0, 8.0, 8.0)
    rows = [
        ImageObjects("a.png", 8, 8, (Object(whole, label=1), Object(whole, label=1))),
        ImageObjects("b.png", 8, 8, (Object(whole, label=0), Object(whole, label=1))),
        ImageObjects("c.png", 8, 8, (Object(whole),)),
        ImageObjects("d.png", 8, 8, (Object(whole, label=0), Object(whole))),
    ]
    path = tmp_path / "i.parquet"
    write_index(path, rows, root=tmp_path, provenance="annotated", classes=["x", "y"])
    found = open_classified(path)
    assert [Path(p).name for p in found.paths] == ["a.png", "d.png"]
    assert found.labels.tolist() == [1, 0]
    assert found.rows.tolist() == [0, 3]
    assert found.unlabelled == 2


def test_kaggle_names_the_wnid(flat: Path):
    lines = [f"ILSVRC2012_val_0000000{k + 1},{WNIDS[c]} 1 2 3 4 " for k, c in enumerate(OF_IMAGE)]
    (flat.parent / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))
    assert open_classified(flat, classes=WNIDS).labels.tolist() == OF_IMAGE
    assert open_classified(flat).classes == WNIDS


def test_caffe_counts_from_zero_in_the_order_of_the_wnids(flat: Path):
    lines = [f"ILSVRC2012_val_0000000{k + 1}.JPEG {c}" for k, c in enumerate(OF_IMAGE)]
    (flat / "val.txt").write_text("\n".join(reversed(lines)) + "\n")
    assert open_classified(flat, classes=WNIDS).labels.tolist() == OF_IMAGE
    with pytest.raises(DataError, match="has numbers for classes"):
        open_classified(flat)


def test_the_devkit_has_numbers_of_its_own(flat: Path):
    from scipy.io import savemat

    own = {"n01440764": 3, "n02123045": 1, "n04285008": 2}  # not in the order of the wnids
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    synsets = np.array([(n, w, 0) for w, n in own.items()] + [(4, "n00001740", 7)], dtype=kind)
    file = flat.parent / "ILSVRC2012_validation_ground_truth.txt"
    file.write_text("\n".join(str(own[WNIDS[c]]) for c in OF_IMAGE))
    with pytest.raises(DataError, match=r"meta\.mat must be beside it"):
        open_classified(flat, classes=WNIDS)
    savemat(flat.parent / "meta.mat", {"synsets": synsets})
    assert open_classified(flat, classes=WNIDS).labels.tolist() == OF_IMAGE
    file.write_text("1\n2\n")
    with pytest.raises(DataError, match="labels 2 images, but there are 4"):
        open_classified(flat, classes=WNIDS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("ILSVRC2012_val_00000001.JPEG 7", "which is none of 3"),
        ("ILSVRC2012_val_00000001.JPEG", "line 1 is"),
        ("", "is empty"),
        ("elsewhere.JPEG 1", "names none of the images"),
    ],
)
def test_a_label_file_that_does_not_fit_is_one_line(flat: Path, content: str, said: str):
    (flat / "labels.txt").write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        open_classified(flat, labels=flat / "labels.txt", classes=WNIDS)
    assert "labels.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_any_labels_it_says_what_was_looked_for(flat: Path):
    with pytest.raises(DataError, match=r"val.txt.*--test-labels"):
        open_classified(flat)
