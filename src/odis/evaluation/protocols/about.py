"""What a protocol states of the publication that it follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Published:
    """Published figures of one network.

    Args:
        network: As the source names it.
        values: Measure and figure, in the unit of our own scores.
        source: Where they were seen.
    """

    network: str
    values: Mapping[str, float]
    source: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What our default does otherwise than the reference.

    Args:
        ours: What we do.
        reference: What the reference does.
        followed: Whether `--as-published` follows the reference here.
    """

    ours: str
    reference: str
    followed: bool


@dataclass(frozen=True, slots=True)
class About:
    """A protocol's origin: in the results, below the table and on its page.

    Args:
        source: Who published it, and which code was read.
        settings: Each setting of the reference, in words.
        chosen: What the published figures were chosen on.
        differences: Where our default differs from the reference.
        figures: Published figures that were seen at their source.
        memory: What is held at full size, and how much it is.
        time: What takes the time, and whether an interrupted call goes on.
    """

    source: str
    settings: Mapping[str, str]
    chosen: str
    differences: Sequence[Difference]
    figures: Sequence[Published]
    memory: str
    time: str

    def as_dict(self, as_published: bool) -> dict[str, Any]:
        """For `results.json`: where the protocol is from, how figures were chosen, what this run does
        otherwise.
        """
        otherwise = [d.ours for d in self.differences if not (as_published and d.followed)]
        return {
            "source": self.source,
            "chosen": self.chosen,
            "as_published": as_published,
            "differs": otherwise,
            "published": [
                {"network": one.network, **one.values, "source": one.source} for one in self.figures
            ],
        }
