"""Small data sets in their published layouts."""

import json
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
