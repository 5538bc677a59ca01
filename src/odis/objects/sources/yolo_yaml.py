"""The `data.yaml` of YOLO as Ultralytics and Roboflow write it: class names and places of images. Nothing in
it is run or downloaded.

Every value is taken as the text that stands there, so a class may be called `no` or `1`. `names` is a list,
a mapping from class numbers (gaps and text keys are fine) or from names to numbers, or the name of a file
with a name a line. Without `names`, `nc` numbers them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from odis.errors import DataError
from odis.objects.clean import Mended, Skip, Unread
from odis.objects.sources.reader import SPLITS, names_of_split
from odis.objects.sources.text import UNKNOWN, Text, distinct, read_names, read_text, short

CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
"""Lists of class names of tools that write no `data.yaml` (labelImg, Label Studio, darknet)."""

_DEEPEST, _MOST_NODES = 20, 100_000

_MOST_CLASSES = 100_000

_NOTHING = ("", "~", "null", "Null", "NULL", "none", "None")

_NO_SPLITS = ("names", "nc", "path", "download", "yaml_file", "channels", "roboflow")


@dataclass(frozen=True, slots=True)
class ClassList:
    """Class names and which numbers in label files mean them."""

    names: list[str]
    positions: dict[int, int] = field(default_factory=dict)  # class number -> position in `names`

    @classmethod
    def of(cls, named: dict[int, str]) -> ClassList:
        """The classes of these numbers, in their order."""
        numbers = sorted(named)
        names = distinct([named[number] for number in numbers], list(numbers))
        return cls(names, {number: k for k, number in enumerate(numbers)})

    def position(self, word: str) -> int | None:
        """The position of the class that a label file calls `word`, a whole number or a name.

        Raises:
            DataError: It is a number, but no whole one.
        """
        if word in self.names and not word.isdecimal():
            return self.names.index(word)
        try:
            number = float(word)
        except ValueError:
            return None
        if not number.is_integer():
            raise DataError(f"has class {number:g}, must be a whole number")
        return self.positions.get(int(number))


def find_yaml(root: Path) -> Path | None:
    """The YAML file of a data set: `data.yaml`, or the only one that names splits; None if there is none.

    Raises:
        DataError: There are several, or the folder cannot be read.
    """
    for name in ("data.yaml", "data.yml"):
        if os.path.isfile(root / name):
            return root / name
    try:
        found = sorted(
            p
            for p in root.iterdir()
            if p.suffix.lower() in (".yaml", ".yml") and not p.name.startswith(".") and os.path.isfile(p)
        )
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({error.strerror or error})") from error
    if len(found) > 1:
        found = [path for path in found if _names_splits(path)] or found
    if len(found) > 1:
        raise DataError(
            f"{root}: no data.yaml, but {', '.join(p.name for p in found)}; --annotations {found[0].name} "
            f"would take the first"
        )
    return found[0] if found else None


def _names_splits(path: Path) -> bool:
    text = read_text(path).text
    return re.search(r"^(train|val|names)\s*:", text, re.MULTILINE) is not None


@dataclass(frozen=True, slots=True)
class DataYaml:
    """A data set as its YAML file describes it."""

    path: Path
    content: dict[str, Any]  # texts, and lists and mappings of them
    text: Text

    @classmethod
    def load(cls, path: Path) -> DataYaml:
        """Read the file.

        Raises:
            DataError: It is no mapping in YAML, or would grow without end.
        """
        try:
            text = read_text(path)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        if UNKNOWN in re.sub(r"(?m)(^|\s)#.*$", "", text.text):  # in a comment it does no harm
            raise DataError(f"{path}: is not UTF-8; save it as UTF-8")
        stated = text.text.replace(UNKNOWN, "?")
        try:
            _refuse_bombs(path, stated)
            node = yaml.compose(stated, Loader=yaml.BaseLoader)
            _weigh(path, node)
            content = yaml.load(stated, Loader=yaml.BaseLoader)
        except DataError:
            raise
        except Exception as error:  # a stray character makes the loader raise almost anything
            raise DataError(f"{path}: is not YAML that can be read ({_reason(error)})") from error
        if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
            raise DataError(f"{path}: must be a mapping with names and train, val or test")
        merged = content.pop("<<", None)
        for mapping in merged if isinstance(merged, list) else [merged]:
            if isinstance(mapping, dict):
                content = {**mapping, **content}
        _refuse_keys_twice(path, node)
        if "kpt_shape" in content:
            raise DataError(
                f"{path}: is for poses (kpt_shape); boxes, polygons and oriented boxes can be read"
            )
        return cls(path, content, text)

    def value(self, key: str) -> Any:
        """What stands at a key; None if there is nothing."""
        value = self.content.get(key)
        return None if isinstance(value, str) and value.strip() in _NOTHING else value

    def split(self, name: str) -> Any:
        """The entry of a split, under whatever of its names; None if there is none."""
        if name in _NO_SPLITS:
            return None
        keys = (name, *names_of_split(name))
        return next((found for key in keys if (found := self.value(key))), None)

    def splits(self) -> list[str]:
        """The splits that have an entry, under the names that stand there."""
        known = [name for names in SPLITS.values() for name in names]
        return [name for name in known if self.value(name)]

    def classes(self, skip: Skip) -> ClassList | None:
        """The classes; None if the file has none.

        Raises:
            DataError: `names` is nothing of what it may be.
        """
        names, stated = self.value("names"), self._stated_number()
        if names is None or names == [] or names == {}:
            return None if stated is None else ClassList.of({k: str(k) for k in range(stated)})
        named = self._named(names)
        if stated is not None and stated not in (len(named), max(named) + 1):
            skip(Unread(f"{self.path}, nc", "nc that is not the number of names"))
        if self.text.encoding == "gb18030" and any(not name.isascii() for name in named.values()):
            skip(Mended(str(self.path), "is not UTF-8; its names are read as GB 18030"))
        return ClassList.of(named)

    def _named(self, names: Any) -> dict[int, str]:
        if isinstance(names, str):
            listed = self.path.parent / names
            if "/" not in names and "\\" not in names and names != ".." and os.path.isfile(listed):
                return dict(enumerate(read_names(listed)))
            words = [word.strip() for word in names.split(",")]
            hint = f"; write names: [{', '.join(words)}]" if len(words) > 1 else ""
            raise DataError(
                f"{self.path}: names is {short(names)}, must be a list, or a mapping from 0, 1, 2, ... to "
                f"names{hint}"
            )
        if isinstance(names, dict):
            named = _by_number(names)
            if named is None:
                raise DataError(
                    f"{self.path}: the keys of names are {short(list(names))}, must be whole numbers from 0"
                )
        else:
            named = dict(enumerate(names))
        for k, name in named.items():
            if not isinstance(name, str):
                raise DataError(f"{self.path}: the name of class {k} is {short(name)}, which is no text")
        return {k: name if name.strip() else str(k) for k, name in named.items()}

    def _stated_number(self) -> int | None:
        nc = self.value("nc")
        if not isinstance(nc, str) or not re.fullmatch(r"\s*\d{1,9}(\.0*)?\s*", nc, re.ASCII):
            return None
        number = int(nc.split(".")[0])
        return number if 0 < number <= _MOST_CLASSES else None


def _by_number(names: dict[Any, Any]) -> dict[int, Any] | None:
    """Names by their numbers, whichever way round the mapping is; None if neither side has them."""
    for numbers, values in ((list(names), list(names.values())), (list(names.values()), list(names))):
        if all(isinstance(n, str) and re.fullmatch(r"\s*\d{1,9}\s*", n, re.ASCII) for n in numbers):
            named = dict(zip(map(int, numbers), values))
            if len(named) == len(names):
                return named
    return None


def _refuse_bombs(path: Path, text: str) -> None:
    """Refuse what makes the loader take any time or run anything, before it builds anything."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise DataError(f"{path}: has more than {_DEEPEST} lists or mappings in each other")
        tag = getattr(event, "tag", None)
        if tag is not None and "python" in tag:
            raise DataError(f"{path}: has the tag {short(tag)}, which no data set needs; it is not read")


def _weigh(path: Path, root: Any) -> None:
    """Refuse what grows without end once its aliases are written out."""
    weights: dict[int, int] = {}
    within: set[int] = set()

    def weight(node: Any) -> int:
        key = id(node)
        if key in within:
            raise DataError(f"{path}: has an alias (*name) within what it stands for")
        if key not in weights:
            within.add(key)
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            below = (part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,)))
            weights[key] = 1 + sum(map(weight, below))
            within.discard(key)
        return weights[key]

    if root is not None and weight(root) > _MOST_NODES:
        raise DataError(
            f"{path}: has more than {_MOST_NODES:,} values when its aliases (*name) are written out; write "
            f"the values themselves"
        )


def _refuse_keys_twice(path: Path, node: yaml.MappingNode) -> None:
    """YAML would keep the last one without a word."""
    mappings = [node, *(value for key, value in node.value if key.value == "names")]
    for mapping in mappings:
        if isinstance(mapping, yaml.MappingNode):
            keys = [key.value for key, _ in mapping.value]
            keys = [str(int(key)) if str(key).isdecimal() else str(key) for key in keys]
            if len(set(keys)) < len(keys):
                raise DataError(f"{path}: has a key twice")


def _reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or str(error) or type(error).__name__
    return (f"line {mark.line + 1}: " if mark else "") + str(text).splitlines()[0]
