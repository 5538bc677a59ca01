"""Scenes composed of real photographs: objects of Tiny-ImageNet, cut out by their boxes, pasted onto images
of other classes.

Several objects lie in a scene, so random crops of one scene show different classes. The background says
nothing about them: it is an image of a class that is never pasted. With `context` it does: such a scene has a
theme, a class that most of its objects are of, and its background comes from the class that belongs to that
theme.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from odis.errors import DataError
from odis.objects.images import load_image
from odis.objects.index import write_index
from odis.objects.sources import tiny_imagenet
from odis.types import ImageObjects, Object

T = TypeVar("T")

SPLITS = ("train", "val")

THEME_SHARE = 0.7
"""In a scene with a theme, the probability that an object is of its class; else it is of any class."""

_OVERLAP = 0.1  # the most of a box that another box may cover

_LEAST_SIDE = 20  # a smaller box, enlarged to an object's size, shows nothing

_NARROWEST, _WIDEST = 0.5, 1.8  # width by height of a box that is used

_EDGE = 2  # pixels over which an object's edge fades


@dataclass(frozen=True, slots=True)
class Cutting:
    """An object that can be pasted: its image, relative to the data set, and its box there (x0, y0, x1, y1)
    in whole pixels.
    """

    image: str
    box: tuple[int, int, int, int]

    @property
    def aspect(self) -> float:
        """Width by height."""
        return (self.box[2] - self.box[0]) / (self.box[3] - self.box[1])


@dataclass(slots=True)
class Photographs:
    """What scenes of one split are made of. Images are decoded when they are first used, and kept."""

    root: Path
    names: list[str]  # of the classes that are pasted; a label is a position in it
    cuttings: list[list[Cutting]]  # by class
    backgrounds: list[list[str]]  # images by class, of the classes that are not pasted
    partners: list[
        int
    ]  # the class of backgrounds that belongs to each pasted class as a theme; empty if they are too few
    _decoded: dict[str, Image.Image] = field(default_factory=dict)

    def image(self, name: str) -> Image.Image:
        """An image of the data set ("RGB")."""
        if name not in self._decoded:
            self._decoded[name] = load_image(str(self.root / name))
        return self._decoded[name]


@dataclass(frozen=True, slots=True)
class Scene:
    """One composed image, its objects, and where they are from."""

    pixels: np.ndarray  # uint8 (size, size, 3)
    boxes: list[tuple[int, int, int, int]]  # x0, y0, x1, y1 with exclusive ends
    labels: list[int]
    cuttings: list[Cutting]  # of each object
    background: str  # image of the data set
    theme: int | None  # class that the background belongs to


def write_photograph_scenes(
    folder: str | Path,
    out_index: str | Path,
    *,
    root: str | Path,
    count: int,
    split: str,
    seed: int,
    size: int = 128,
    objects: tuple[int, int] = (2, 4),
    height: tuple[int, int] = (36, 64),
    classes: int | Sequence[str] = 10,
    context: float = 0.0,
    share: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Compose scenes, write them as `FOLDER/SPLIT/NUMBER.png`, and write their object index (boxes and
    labels, no masks).

    Scene i depends on seed, split and i only, and one without a theme is the same at every `context`. Scenes
    of `train` are made of the train images, those of `val` of the val images.

    Args:
        folder: Where the scenes go.
        out_index: The index, a Parquet file.
        root: Tiny-ImageNet in its published layout.
        count: How many scenes.
        split: `train` or `val`.
        seed: Seed.
        size: Side of a scene in pixels.
        objects: Fewest and most objects in a scene; fewer where they find no place.
        height: Smallest and largest height of an object in pixels. Its aspect is kept.
        classes: How many classes are pasted, evenly spaced in the sorted order of their WordNet ids, which
            puts like beside like; or the ids themselves.
        context: Share of scenes, 0..1, that have a theme.
        share: From where to where in 0..1 the pictures of each class are used, in the order of the split:
            scenes of two shares that do not overlap have no picture in common.

    Raises:
        DataError: Something asked for is not there or impossible, or the folder cannot be written.
    """
    _check(count, seed, size, objects, height, context)
    photographs = gather(root, split, classes, share)
    if context and not photographs.partners:
        raise DataError(
            f"{root}: context needs a class for the background of each of {len(photographs.names)} classes, "
            f"only {len(photographs.backgrounds)} are left; paste fewer classes"
        )
    out = Path(folder).absolute()

    def rows() -> Iterator[ImageObjects]:
        (out / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            rng = np.random.default_rng([seed, SPLITS.index(split), i])
            scene = compose(rng, photographs, size=size, objects=objects, height=height, context=context)
            name = f"{split}/{i:06d}.png"
            Image.fromarray(scene.pixels).save(out / name, compress_level=1)
            placed = (
                Object((float(a), float(b), float(c), float(d)), label=k)
                for (a, b, c, d), k in zip(scene.boxes, scene.labels)
            )
            yield ImageObjects(name, size, size, tuple(placed))

    try:
        write_index(out_index, rows(), root=out, provenance="annotated", classes=photographs.names)
    except OSError as error:
        raise DataError(f"{out}: scenes cannot be written ({error.strerror or error})") from error


def gather(
    root: str | Path, split: str, classes: int | Sequence[str], share: tuple[float, float] = (0.0, 1.0)
) -> Photographs:
    """Boxes to cut out and images to lie behind, of one split of Tiny-ImageNet, and of that a share. Boxes
    too small or too long are left out.

    A theme's background comes from one of the last classes in the order of WordNet ids: they are places and
    food, whose images look alike all over.

    Raises:
        DataError: The data set, the split or a class is missing, or a class has no box that can be used.
    """
    if split not in SPLITS:
        raise DataError(f"photographs: no split {split!r}; there are {' and '.join(SPLITS)}")
    root = Path(root).absolute()
    source = tiny_imagenet.read(root, split, lambda _: None)
    wnids = (root / "wnids.txt").read_text(encoding="utf-8").split()
    chosen = _choose(root, sorted(wnids), classes)
    others = [wnid for wnid in sorted(wnids) if wnid not in chosen]
    cuttings: dict[str, list[Cutting]] = {wnid: [] for wnid in chosen}
    images: dict[str, list[str]] = {wnid: [] for wnid in others}
    for row in source.rows:
        for item in row.objects[:1]:
            wnid = wnids[item.label or 0]
            if wnid in images:
                images[wnid].append(row.image)
                continue
            cutting = Cutting(
                row.image, (round(item.box[0]), round(item.box[1]), round(item.box[2]), round(item.box[3]))
            )
            x0, y0, x1, y1 = cutting.box
            if min(x1 - x0, y1 - y0) >= _LEAST_SIDE and _NARROWEST <= cutting.aspect <= _WIDEST:
                cuttings[wnid].append(cutting)
    cuttings = {wnid: _part(found, share) for wnid, found in cuttings.items()}
    backgrounds = [part for wnid in others if (part := _part(images[wnid], share))]
    for wnid, found in cuttings.items():
        if not found:
            raise DataError(f"{root}: class {wnid} has no box in {split} that can be used")
    if not backgrounds:
        raise DataError(f"{root}: no image in {split} of another class to lie behind; paste fewer classes")
    partners = list(range(len(backgrounds) - len(chosen), len(backgrounds)))
    names = [source.classes[wnids.index(wnid)] for wnid in chosen]
    return Photographs(
        root, names, list(cuttings.values()), backgrounds, partners if partners[0] >= 0 else []
    )


def _part(items: list[T], share: tuple[float, float]) -> list[T]:
    start, end = (round(edge * len(items)) for edge in share)
    return items[start:end]


def compose(
    rng: np.random.Generator,
    photographs: Photographs,
    *,
    size: int = 128,
    objects: tuple[int, int] = (2, 4),
    height: tuple[int, int] = (36, 64),
    context: float = 0.0,
) -> Scene:
    """Draw one scene. Every draw is made whether there is a theme or not, so that `context` moves no other
    scene.
    """
    classes = len(photographs.names)
    chance, theme = rng.random(), int(rng.integers(classes))
    themed = bool(chance < context)
    n = int(rng.integers(objects[0], objects[1] + 1))
    labels = np.where((rng.random(n) < THEME_SHARE) & themed, theme, rng.integers(0, classes, n)).tolist()
    cuttings: list[Cutting] = []
    for label in labels:
        kind = photographs.cuttings[label]
        start = int(rng.random() * len(kind))
        # The next one that is not there yet; a class of few images may run out of them.
        cuttings.append(next((c for c in kind[start:] + kind[:start] if c not in cuttings), kind[start]))
    which, where = rng.random(2).tolist()
    behind = photographs.backgrounds[
        photographs.partners[theme] if themed else int(which * len(photographs.backgrounds))
    ]
    background = behind[int(where * len(behind))]

    boxes = _place(rng, [c.aspect for c in cuttings], size, objects[0], height)
    canvas = photographs.image(background).resize((size, size), Image.Resampling.BICUBIC)
    for cutting, box in zip(cuttings, boxes):
        if box is not None:
            w, h = box[2] - box[0], box[3] - box[1]
            object_ = (
                photographs.image(cutting.image).crop(cutting.box).resize((w, h), Image.Resampling.BICUBIC)
            )
            canvas.paste(object_, box[:2], _alpha(w, h))
    kept = [k for k, box in enumerate(boxes) if box is not None]
    return Scene(
        np.asarray(canvas),
        [box for box in boxes if box is not None],
        [labels[k] for k in kept],
        [cuttings[k] for k in kept],
        background,
        theme if themed else None,
    )


def _check(
    count: int, seed: int, size: int, objects: tuple[int, int], height: tuple[int, int], context: float
) -> None:
    if count < 1:
        raise DataError(f"photographs: count is {count}, must be 1 or more")
    if seed < 0:
        raise DataError(f"photographs: seed is {seed}, must be 0 or more")
    if not 1 <= objects[0] <= objects[1]:
        raise DataError(f"photographs: objects is {list(objects)}, must be two rising numbers from 1")
    if not 8 <= height[0] <= height[1]:
        raise DataError(f"photographs: height is {list(height)}, must be two rising numbers of pixels from 8")
    if not 0 <= context <= 1:
        raise DataError(f"photographs: context is {context}, must be in 0..1")
    if (
        _WIDEST * height[0] > size
        or height[1] > size
        or objects[0] * _WIDEST * height[0] ** 2 > 0.6 * size**2
    ):
        raise DataError(
            f"photographs: {objects[0]} objects, {list(height)} pixels high, do not fit into a scene of "
            f"{size}; make size larger"
        )


def _choose(root: Path, wnids: list[str], classes: int | Sequence[str]) -> list[str]:
    """The classes that are pasted, of sorted WordNet ids."""
    if isinstance(classes, int):
        if not 1 <= classes < len(wnids):
            raise DataError(
                f"{root}: classes is {classes}, must be in 1..{len(wnids) - 1}: it has {len(wnids)}, and "
                f"one lies behind"
            )
        return [wnids[k * len(wnids) // classes] for k in range(classes)]
    missing = [wnid for wnid in classes if wnid not in wnids]
    if missing or not classes:
        raise DataError(
            f"{root}: no class {missing[0] if missing else ''!r}; wnids.txt lists {len(wnids)}, "
            f"{wnids[0]} and others"
        )
    return sorted(set(classes))


def _place(
    rng: np.random.Generator, aspects: list[float], size: int, least: int, height: tuple[int, int]
) -> list[tuple[int, int, int, int] | None]:
    """Boxes wholly inside the scene, none more than 10 % covered; None where no place is left. Smaller ones
    if fewer than `least` fit.
    """
    best: list[tuple[int, int, int, int] | None] = []
    for attempt in range(12):
        most = height[0] + (height[1] - height[0]) * (1 - attempt / 12)
        boxes: list[tuple[int, int, int, int] | None] = []
        for aspect in aspects:
            # No wider than the highest are high: a wide one at full height would fill the scene.
            h = round(rng.uniform(height[0], max(height[0], min(most, height[1] / aspect))))
            w = max(1, round(h * aspect))
            corners = [
                (int(u * (size - w + 1)), int(v * (size - h + 1))) for u, v in rng.random((48, 2)).tolist()
            ]
            tries = ((x, y, x + w, y + h) for x, y in corners)
            boxes.append(
                next(
                    (b for b in tries if all(_apart(b, other) for other in boxes if other is not None)), None
                )
            )
        if len(boxes) - boxes.count(None) > len(best) - best.count(None):
            best = boxes
        if len(best) - best.count(None) >= least:
            break
    return best


def _apart(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return True
    return w * h <= _OVERLAP * min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _alpha(w: int, h: int) -> Image.Image:
    """Opaque inside, fading over the last pixels ("L"): a hard edge would say where an object is without a
    look at it.
    """
    across, down = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 1 for n in (w, h))
    ramp = np.minimum(across / (_EDGE + 1), 1)[None, :] * np.minimum(down / (_EDGE + 1), 1)[:, None]
    return Image.fromarray(np.rint(255 * ramp).astype(np.uint8))
