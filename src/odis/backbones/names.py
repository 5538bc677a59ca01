"""Names of timm's models: what is wrong with one that cannot be used, and which are close."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator

import timm

PLAIN = (
    "must be a plain VisionTransformer: vit_*, deit3_*, timm.list_models(module='vision_transformer'); or of "
    "timm's module eva (DINOv3, EVA) or beit"
)
"""What a model to train must be, for messages."""

_MOST = 4  # names in a message


def name_fault(name: str, *, vision_transformer: bool = False) -> str | None:
    """What is wrong with a model's name, in one line; None if timm has it.

    Args:
        name: `vit_small_patch16_224`, or with the tag of published weights behind a dot.
        vision_transformer: It must be one of timm's `VisionTransformer`s.
    """
    if ":" in name:  # of the hub: timm asks there
        return None
    if not timm.is_model(name):
        known = timm.list_models(module="vision_transformer") if vision_transformer else timm.list_models()
        architecture, _, _ = name.partition(".")
        close = difflib.get_close_matches(architecture, known, n=_MOST, cutoff=0.6)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models('vit_*') lists them"
        return f"timm has no model {name}; {hint}"
    architecture, _, tag = name.partition(".")
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        close = difflib.get_close_matches(tag, tags, n=_MOST, cutoff=0.4) or tags[:_MOST]
        there = f"it has {', '.join(close)}" if tags else "it has none"
        return f"timm has no weights {tag!r} of {architecture}; {there}"
    module = timm_module(name)
    if vision_transformer and module in _OTHERS:
        return f"{name} is not a timm VisionTransformer but of its module {module}; {PLAIN}"
    return None


def timm_module(name: str) -> str:
    """The module of timm that makes a model of this name; empty for one of the hub."""
    if ":" in name:
        return ""
    return str(timm.model_entrypoint(name.partition(".")[0]).__module__.rpartition(".")[2])


@contextlib.contextmanager
def without_hub() -> Iterator[None]:
    """While the block runs, the client of the hub reads its local cache and asks nobody."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


_OTHERS = frozenset(timm.list_modules()) - {
    "vision_transformer",
    "vision_transformer_hybrid",
    "deit",
    "eva",
    "beit",
}
"""Modules of timm without a model that takes the arguments of a Vision Transformer."""
