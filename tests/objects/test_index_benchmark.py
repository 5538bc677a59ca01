"""The data that `benchmarks/index.py` times are what it says they are, and all of them are read."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from odis.objects.index import ObjectIndex

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "index.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("index_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("masks", [0.0, 0.5])
def test_every_annotation_is_an_object_of_the_index(
    benchmark: ModuleType, tmp_path: Path, masks: float
) -> None:
    path = benchmark.write_coco(tmp_path, 50, 7, masks)
    annotations = json.loads(path.read_text())["annotations"]
    order = [annotation["image_id"] for annotation in annotations]
    assert order != sorted(order)
    out = tmp_path / "i.parquet"
    found = benchmark.measure("build", ["coco", str(tmp_path), str(out), benchmark.SPLIT, "True"])
    assert (found["images"], found["objects"], found["left_out"]) == (50, 350, 0)
    assert found["mib"] > 100
    assert found["seconds"] > 0
    kinds = {type(annotation["segmentation"]) for annotation in annotations if annotation["segmentation"]}
    assert kinds == ({list, dict} if masks else set())
    with_mask = sum(item.mask is not None for row in ObjectIndex.open(out) for item in row.objects)
    assert with_mask == sum(bool(annotation["segmentation"]) for annotation in annotations)


def test_images_that_are_opened_are_there(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "_CHUNK", 9)
    benchmark.write_open_images(tmp_path, 20, 3)
    out = tmp_path / "i.parquet"
    found = benchmark.measure("build", ["open-images", str(tmp_path), str(out), "train", "False"])
    assert (found["images"], found["objects"], found["left_out"]) == (20, 60, 0)
    assert {(row.width, row.height) for row in ObjectIndex.open(out)} == {(benchmark.WIDTH, benchmark.HEIGHT)}


def test_boxes_of_imagenet_are_read_from_its_csv_file(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "CLASSES", 3)
    benchmark.write_imagenet(tmp_path / "imagenet", 11, 2)
    out = tmp_path / "i.parquet"
    found = benchmark.measure("build", ["imagenet", str(tmp_path / "imagenet"), str(out), "train", "False"])
    assert (found["images"], found["objects"], found["left_out"]) == (11, 22, 0)
    index = ObjectIndex.open(out)
    assert len(index.classes) == 3
    assert all(
        x1 - x0 == y1 - y0 == 91 for row in index for x0, y0, x1, y1 in row.boxes
    )  # corners are inclusive
