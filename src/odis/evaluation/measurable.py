"""Whether an evaluation can measure anything: the one rule of all that learn from labels.

With one class every answer is right, and without a class in common none is, whatever the features are. Each
evaluation asks twice: before features are made, by the labels of its data, read only until it is clear; and
before it gives a score, by the labels that took part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odis.errors import DataError
from odis.evaluation.subset import Subset

_SHOWN = 5  # names in a message


def _nothing() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class FoundLabels:
    """The labels of one part of an evaluation.

    Args:
        path: Names the part in messages.
        classes: Names; a label is a position in it.
        found: Labels that occur, each any number of times.
        unit: What has them: `objects`, `images`, `pixels`.
        background: Label of what is no object, which is not enough to measure by; None if there is none.
        hint: What a user may do if there are too few, asked for when there are.
        having: What it takes to be labelled, in words.
    """

    path: str
    classes: Sequence[str]
    found: Iterable[int]
    unit: str = "objects"
    background: int | None = None
    hint: Callable[[], str] = _nothing
    having: str = "has a label"


def labels_of(subset: Subset, *, images: bool = False, multi_label: bool = False) -> FoundLabels:
    """The labels of the objects in a subset, or of its images; rows are read as labels are asked for.

    Args:
        subset: What takes part.
        images: Images are classified, not objects.
        multi_label: Images may have several labels; else those take part that have exactly one.
    """

    def found() -> Iterator[int]:
        for i in subset.rows:
            try:
                labels = [item.label for item in subset.index[i].objects if item.label is not None]
            except DataError:  # a header that cannot be read: the file is named when features are made
                continue
            if not images or multi_label or len(set(labels)) == 1:
                yield from labels

    having = "has exactly one label" if images and not multi_label else "has a label"
    unit = "images" if images else "objects"
    return FoundLabels(subset.index.path, subset.index.classes, found(), unit, having=having)


def labels_in(subset: Subset, labels: Tensor, *, images: bool = False, classes: Sequence[str]) -> FoundLabels:
    """The labels that took part, int64, as positions in `classes`."""
    unit = "images" if images else "objects"
    return FoundLabels(subset.index.path, classes, labels.unique().tolist(), unit)


class _Scan:
    """Reads labels until enough of them were seen."""

    def __init__(self, labels: FoundLabels, by_name: bool) -> None:
        self.labels, self._by_name, self._rest = labels, by_name, iter(labels.found)
        self.seen: dict[int | str, int] = {}  # ordered

    def read(self) -> bool:
        """Read one more; False at the end."""
        for label in self._rest:
            if 0 <= label < len(self.labels.classes):
                self.seen.setdefault(self.labels.classes[label] if self._by_name else label, label)
                return True
        return False

    def until(self, enough: int) -> bool:
        """Read until `enough` classes were seen; False if there are fewer."""
        while len(self.seen) < enough:
            if not self.read():
                return False
        return True

    def classes(self) -> set[int | str]:
        """Classes seen so far, without the background."""
        return {key for key, label in self.seen.items() if label != self.labels.background}

    def names(self) -> str:
        """Their names."""
        names = [self.labels.classes[v] for v in self.seen.values() if v != self.labels.background]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return ", ".join(names[:_SHOWN]) + more


def require_classes(train: FoundLabels) -> None:
    """Refuse a part to learn from in which there is nothing to tell apart.

    Raises:
        DataError: It has no label, only the background, or one class.
    """
    _scanned(train, by_name=False)


def require_measurable(train: FoundLabels, test: FoundLabels) -> None:
    """Refuse parts by which no features could be told from others; classes are matched by name.

    Args:
        train: What is learned from: train part, gallery.
        test: What is measured on: test part, queries.

    Raises:
        DataError: The train part is as `require_classes` refuses it, the test part has no label or only the
            background, or they have no class in common.
    """
    by_name = list(train.classes) != list(test.classes)
    known, asked = _scanned(train, by_name), _Scan(test, by_name)
    if not asked.until(1):
        raise DataError(_unlabelled(test))
    while not asked.classes():
        if not asked.read():
            raise DataError(_background(test))
    rest = [known, asked]
    while not known.classes() & asked.classes():
        rest = [scan for scan in rest if scan.read()]
        if not rest:
            raise DataError(_foreign(known, asked))


def require_varied(test: FoundLabels, targets: Tensor) -> None:
    """Refuse test rows that all have the same labels, where each may have several.

    Args:
        test: Names the part.
        targets: bool (n, classes).

    Raises:
        DataError: Every row has every class that occurs, so that any ranking of them is perfect.
    """
    occurring = targets[:, targets.any(0)]
    if bool(occurring.all()):
        raise DataError(
            f"{test.path}: all its {test.unit} have the same labels: any features would score 100, so "
            f"nothing is measured"
        )


def without_example(train: Tensor, test: Tensor, classes: Sequence[str], unit: str) -> list[str]:
    """A note if some test rows are of classes that no train row has: they cannot be right.

    Args:
        train: int64 (m,), labels of the train part.
        test: int64 (n,), labels of the test part, as positions in the same classes.
        classes: Their names.
        unit: What has a label.
    """
    known = torch.zeros(len(classes), dtype=torch.bool)
    known[train] = True
    counts = Counter(test[~known[test]].tolist())
    if not counts:
        return []
    names = [classes[label] for label in counts]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [
        f"{counts.total():,} of {len(test):,} test {unit} are of classes without a train example, and count "
        f"as wrong: {', '.join(names[:_SHOWN])}{more}"
    ]


def _scanned(train: FoundLabels, by_name: bool) -> _Scan:
    scan = _Scan(train, by_name)
    if scan.until(2):
        return scan
    if not scan.seen:
        raise DataError(_unlabelled(train))
    if not scan.classes():
        raise DataError(_background(train))
    raise DataError(
        f"{train.path}: all its labelled {train.unit} are of one class ({scan.names()}): any features would "
        f"score 100, so nothing is measured{train.hint()}"
    )


def _unlabelled(part: FoundLabels) -> str:
    return (
        f"{part.path}: none of its {part.unit} {part.having}; this evaluation needs a labelled "
        f"index{part.hint()}"
    )


def _background(part: FoundLabels) -> str:
    return (
        f"{part.path}: its {part.unit} are nothing but background: any features would score 100, so nothing "
        f"is measured{part.hint()}"
    )


def _foreign(known: _Scan, asked: _Scan) -> str:
    train, test = known.labels, asked.labels
    listed = set(train.classes)
    foreign = [name for label in asked.seen.values() if (name := test.classes[label]) not in listed]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        return (
            f"{test.path}: has {test.unit} of classes that {train.path} does not list: "
            f"{', '.join(foreign[:3])}{more}"
        )
    return (
        f"{test.path}: no class in common with {train.path}, so no answer could be right: its {test.unit} "
        f"are of {asked.names()}, the others of {known.names()}"
    )
