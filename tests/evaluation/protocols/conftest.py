"""Small data sets in their published layouts."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

XML = """<annotation><filename>{name}.jpg</filename><size><width>60</width><height>40</height><depth>3</depth>
</size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><pose>Left</pose><truncated>{t}</truncated><difficult>{d}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def voc(root: Path, images: dict[str, list[str]], split: str = "trainval") -> Path:
    for name, objects in images.items():
        picture(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(XML.format(name=name, objects="".join(objects)))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
    return root


def coco(root: Path, split: str, names: list[str], crowd: bool = False) -> Path:
    annotations, images = [], []
    for i, name in enumerate(names):
        picture(root / split / name)
        images.append({"id": 7 + i, "file_name": name, "width": 60, "height": 40})
        for k, box in enumerate([[5.5, 4, 20, 10.25], [0, 0, 60, 40]]):
            annotations.append(
                {
                    "id": 100 + 2 * i + k,
                    "image_id": 7 + i,
                    "category_id": 3,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowd and k),
                    "segmentation": {"size": [40, 60], "counts": [0, 2400]} if crowd and k else [],
                }
            )
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "x"}]}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def layouts() -> SimpleNamespace:
    """Writers: `voc(root, images, split)`, `coco(root, split, names, crowd)`, `picture(path)`, `OBJECT`."""
    return SimpleNamespace(voc=voc, coco=coco, picture=picture, OBJECT=OBJECT)


PALETTE = {0: (128, 128, 128), 1: (220, 30, 30), 2: (30, 200, 30), 3: (30, 30, 220), 255: (240, 240, 240)}


@pytest.fixture(scope="session")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`segmented(train=5, val=4)`: a folder in VOC's layout of images of 4 x 4 blocks of a class each."""

    def write(
        *, train: int = 5, val: int = 4, noise: float = 30, ignored: bool = True, seed: int = 0
    ) -> Path:
        root = tmp_path_factory.mktemp("voc") / "VOC2012"
        rng = np.random.default_rng(seed)
        for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (root / name).mkdir(parents=True)
        values = [0, 1, 2, 3, 255] if ignored else [0, 1, 2, 3]
        number = 0
        for split, count in (("train", train), ("val", val)):
            names = []
            for _ in range(count):
                blocks = rng.choice(values, (4, 4))
                labels = np.kron(blocks, np.ones((9, 11), np.int64)).astype(np.uint8)
                pixels = np.stack([PALETTE[v] for v in labels.ravel().tolist()]).reshape(*labels.shape, 3)
                noisy = np.clip(pixels + rng.normal(0, noise, pixels.shape), 0, 255).astype(np.uint8)
                names.append(f"2007_{number:06}")
                Image.fromarray(noisy).save(root / "JPEGImages" / f"{names[-1]}.png")
                Image.fromarray(labels).save(root / "SegmentationClass" / f"{names[-1]}.png")
                number += 1
            (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        return root

    return write
