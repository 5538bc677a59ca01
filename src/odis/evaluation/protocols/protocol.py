"""A published protocol: an evaluation that states where it is from, `odis evaluate protocol NAME`.

A module of this package states its protocol as `PROTOCOL`; adding one touches its file and the list in
`__init__.py`. Nothing heavy is imported at the top of such a module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from odis.config.query import QueryConfig
from odis.errors import OdisError
from odis.evaluation.evaluation import Evaluation
from odis.evaluation.protocols.about import About
from odis.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from odis.evaluation.runner import EvaluationRun
    from odis.inference import Encoder

D = TypeVar("D")
S = TypeVar("S", bound=EvaluationSettings)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ProtocolSettings(EvaluationSettings):
    """Settings that protocols share.

    Args:
        query: Set by the protocol.
        as_published: Follow the reference to the letter, its slips included; by default the sensible choice
            is made where the two differ. The protocol's page lists them.
    """

    query: QueryConfig = field(default=QueryConfig(("whole-image",)), metadata={"only": ()})
    as_published: bool = False

    def check(self) -> None:
        """See `EvaluationSettings.check`; what the protocol does not offer must not be given.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        for name in self._not_offered():
            if getattr(self, name) is not None:
                raise OdisError(f"{name.replace('_', '-')}: this protocol has no such setting")
        self.check_counts()

    def as_dict(self) -> dict[str, Any]:
        """See `EvaluationSettings.as_dict`; without what the protocol does not offer, and where and how often
        what is made is kept, which changes nothing.
        """
        left_out = {*self._not_offered(), "cache", "keep_every"}
        return {name: v for name, v in EvaluationSettings.as_dict(self).items() if name not in left_out}

    def _not_offered(self) -> list[str]:
        return [one.name for one in fields(self) if not one.metadata.get("offered", True)]

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """A protocol says itself which models it takes; see `EvaluationSettings.check_models`.

        Raises:
            OdisError: there is no model, or one that does not read 8-bit RGB.
        """
        from odis.inference.colours import require_colours

        EvaluationSettings.check_models(self, encoders)
        for encoder in encoders:
            require_colours(encoder, "this protocol")


def not_offered() -> Any:
    """A field of `EvaluationSettings` that means nothing in a protocol: no option, and refused if it is
    given.
    """
    return field(default=None, metadata={"offered": False})


@dataclass(frozen=True, slots=True)
class Protocol(Evaluation[D, S]):
    """A published protocol.

    Args:
        about: Where it is from, and how the published figures came about.
    """

    about: About


def statistics_of(encoder: Encoder, settings: ProtocolSettings) -> Encoder:
    """The encoder with the pixel statistics that the protocol asks for: the model's own, or ImageNet's as
    published.
    """
    from dataclasses import replace

    return replace(encoder, mean=IMAGENET_MEAN, std=IMAGENET_STD) if settings.as_published else encoder


def results_of(run: EvaluationRun, about: About, settings: ProtocolSettings) -> dict[str, Any]:
    """What `results.json` holds: the run's results, and where the protocol is from."""
    drawn = [
        f"{name.replace('_', '-')} {value}: a part of the images was drawn, which the protocol does not do"
        for name in ("max_train", "max_test")
        if (value := getattr(settings, name)) is not None
    ]
    run.notes = [*run.notes, *(note for note in drawn if note not in run.notes)]
    return run.results() | {"protocol": about.as_dict(settings.as_published)}
