"""Two runs that were really trained, three steps each on scenes made here; and a reader of HTML that refuses
what is not well-formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.objects.scenes.write import write_scenes
from odis.train.loop import pretrain

SMALL: dict[str, Any] = {
    "model__embed_dim": 24, "model__depth": 3, "model__num_heads": 2,
    "head__hidden": 32, "head__prototypes": 32, "head__bottleneck": 16,
    "train__steps": 3, "train__batch_size": 8, "train__log_every": 1, "loader__workers": 0,
}  # fmt: skip


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.parquet and val.parquet, and the scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 16), ("val", 8)):
        write_scenes(folder / split, folder / f"{split}.parquet", count=count, split=split, seed=0)
    return folder


@pytest.fixture(scope="session")
def train(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains the demo's recipe, made tiny, with other settings; returns the run's folder."""
    home = tmp_path_factory.mktemp("runs")

    def train(name: str, **settings: Any) -> Path:
        data = {"data": str(scenes / "train.parquet"), "val": str(scenes / "val.parquet")}
        config: PretrainConfig = load_recipe("demo", **(data | SMALL | settings))
        return pretrain(
            config,
            home / name,
            recipe="demo",
            evaluate=lambda backbone, config: {"knn/masked-attention@20": 12.5},
        )

    return train


@pytest.fixture(scope="session")
def run(train: Callable[..., Path]) -> Path:
    """A run with object tokens and k-NN during training."""
    return train("one", train__knn_every=2)


@pytest.fixture(scope="session")
def pooled(train: Callable[..., Path]) -> Path:
    """A run whose objects are means of patches."""
    return train(
        "pooled",
        train__seed=1,
        model__object_readout="mean-pool",
        model__object_tokens="single",
        objects__per_image=1,
    )


@dataclass
class Node:
    """An element, its attributes, and what it holds."""

    tag: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str | None = None, **attributes: str) -> list[Node]:
        """Elements below with a tag and attributes (`class_` matches one of the classes), in order."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                if tag in (None, child.tag) and all(
                    child._has(k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items()
                ):
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def _has(self, name: str, value: str) -> bool:
        there = self.attributes.get(name)
        return value in (there or "").split() if name == "class" else there == value

    @property
    def text(self) -> str:
        """All text below, white space as one space."""
        return " ".join(
            "".join(child if isinstance(child, str) else f" {child.text} " for child in self.children).split()
        )


class _Reader(HTMLParser):
    VOID = frozenset({"img", "meta"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("")
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in self.VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert any(node.tag == "svg" for node in self.open), f"<{tag}/> is for SVG only"
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@pytest.fixture(scope="session")
def parsed() -> Callable[[str], Node]:
    """Reads HTML into nodes; what is not well-formed fails."""

    def parsed(text: str) -> Node:
        reader = _Reader()
        reader.feed(text)
        reader.close()
        assert reader.open == [reader.root], f"not closed: {[node.tag for node in reader.open]}"
        return reader.root

    return parsed
