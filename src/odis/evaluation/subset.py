"""Which images take part in an evaluation, and how the classes of two indexes correspond."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.index import ObjectIndex


def draw_rows(count: int, most: int | None, seed: int) -> Sequence[int]:
    """All of `count` rows, or `most` of them drawn by the seed, ascending."""
    if most is None or most >= count:
        return range(count)
    return sorted(np.random.default_rng(seed).permutation(count)[:most].tolist())


@dataclass(frozen=True, slots=True)
class Subset:
    """Rows of an index that take part in an evaluation."""

    index: ObjectIndex
    rows: Sequence[int]

    @staticmethod
    def of(index: ObjectIndex | Subset, most: int | None, seed: int) -> Subset:
        """All rows, or `most` of them drawn by the seed; a subset stays as it is."""
        if isinstance(index, Subset):
            return index
        return Subset(index, draw_rows(len(index), most, seed))

    def labelled(self, enough: int, *, images: bool = False, several: bool = False) -> int:
        """How many objects have a label; counting stops at `enough`.

        Args:
            enough: Where to stop.
            images: Count images instead, those whose objects have exactly one label between them.
            several: Count images with more labels too.
        """
        count = 0
        for i in self.rows:
            try:
                labels = [item.label for item in self.index[i].objects if item.label is not None]
            except DataError:  # a header that cannot be read: the file is named when features are made
                continue
            count += (bool(labels) if several else len(set(labels)) == 1) if images else len(labels)
            if count >= enough:
                return enough
        return count

    def has_several_labels(self) -> bool:
        """Whether an image has objects of more than one class."""
        for i in self.rows:
            try:
                if len({item.label for item in self.index[i].objects if item.label is not None}) > 1:
                    return True
            except DataError:  # named when features are made
                continue
        return False


def shared_images(one: Subset, other: Subset) -> int:
    """How many images of `one` are in `other` too, by the paths of their files (`real_path`)."""
    if not one.rows or not other.rows:
        return 0
    small, large = sorted((one, other), key=lambda subset: len(subset.rows))
    paths = {real_path(small.index.image_path(i)) for i in small.rows}
    return len(paths & {p for i in large.rows if (p := real_path(large.index.image_path(i))) in paths})


def real_path(path: str) -> str:
    """The path of an image whose folder is no link; a link to the image itself is not followed, since asking
    for each of a million takes minutes.
    """
    if "://" in path:
        return path
    folder, name = os.path.split(path)
    return os.path.join(_real_folder(folder), name)


@lru_cache(maxsize=65536)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def overlap_note(shared: int) -> list[str]:
    """A note if train and test part share images: their scores are not those of new images."""
    if not shared:
        return []
    return [
        f"{counted(shared, 'image is', 'images are')} in the test and the train part: their scores say "
        f"nothing of new images"
    ]


def in_train_classes(test: ObjectIndex, train: ObjectIndex, used: Tensor) -> Tensor:
    """For each class of the test index its position in the train index, matched by name: int64 (test
    classes,), -1 for one it lacks.

    Args:
        test: Index whose labels are to be read as those of `train`.
        train: Index that the classes are known from.
        used: int64, labels of the test index that occur.

    Raises:
        DataError: if a class that occurs is not in the train index, or two classes of an index have one name.
    """
    if test.classes == train.classes:
        return torch.arange(len(test.classes))
    for index in (train, test):
        if len(set(index.classes)) < len(index.classes):
            twice = next(name for name in index.classes if index.classes.count(name) > 1)
            raise DataError(
                f"{index.path}: two of its classes are named {twice!r}, so they cannot be matched with "
                f"another index's"
            )
    position = {name: i for i, name in enumerate(train.classes)}
    foreign = [name for i in used.unique().tolist() if (name := test.classes[i]) not in position]
    if foreign:
        shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise DataError(f"{test.path}: has objects of classes that {train.path} does not list: {shown}")
    return torch.tensor([position.get(name, -1) for name in test.classes])
