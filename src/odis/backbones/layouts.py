"""How authors publish a ViT, and the same tensors under timm's names.

Read are, in any nesting of them:
- wrappers: `{"model": ...}`, `{"state_dict": ...}`, `{"teacher": ..., "student": ...}` (DINO, iBOT) and the
  like. Of a teacher or moving average and a student the teacher is taken, as their authors do.
- names of modules around the backbone: `module.` (DDP), `_fsdp_wrapped_module.`, `_orig_mod.` (compile),
  `backbone.`, `teacher.backbone.` (DINOv2), `base_encoder.` (MoCo v3), `visual.trunk.` (OpenCLIP).
- blocks in chunks, `blocks.1.7.` (DINOv2's FSDP training), as `blocks.7.`.
- the learned mask token: `masked_embed` (1, D) of iBOT (its student alone has one), `mask_token` (1, D) of
  DINOv2 and DINOv3.
- MAE with its decoder, whose mask token is the decoder's.

What an architecture names in its own way (registers of DINOv2, biases of DINOv3) timm's conversion reads.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from odis.config.wording import counted

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
_ANCHORS = ("patch_embed.proj.weight", "visual.class_embedding")  # every ViT that is read has one of them
_TEACHERS = ("teacher", "ema", "momentum", "target")
_STUDENTS = ("student", "predictor", "decoder", "text")
_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+)\.")
_DECODER = re.compile(r"^(?:decoder_|mask_token$)")
_SHOWN = 6  # names in a message
_DEPTH = 3  # of nested dicts


@dataclass(frozen=True, slots=True)
class FoundState:
    """A backbone in the content of a file.

    Attributes:
        tensors: Under the names that the authors' backbone gives them, without wrappers.
        where: Where it was, as Python: `['teacher'] backbone.`; empty at the top.
        left_out: What else there was: name or first part of the names, and how many tensors.
    """

    tensors: dict[str, Tensor]
    where: str
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Candidate:
    path: tuple[str, ...]  # keys of the nested dicts
    prefix: str  # of the names in it, without wrappers
    state: dict[str, Tensor]  # names without wrappers

    @property
    def where(self) -> str:
        return " ".join(filter(None, ("".join(f"[{key!r}]" for key in self.path), self.prefix)))

    @property
    def rank(self) -> int:
        """0 for a teacher, 1, or 2 for a student or something beside the backbone."""
        words = [*self.path, *self.prefix.split(".")]
        if any(mark in word for word in words for mark in _TEACHERS):
            return 0
        return 2 if any(mark in word for word in words for mark in _STUDENTS) else 1


def find_state(content: Any) -> FoundState:
    """The backbone in what a file holds: the teacher's, if there are several.

    Raises:
        ValueError: there is none, or several and none is the teacher's; in one line.
    """
    states = list(_states(content))
    candidates = [candidate for path, state in states for candidate in _candidates(path, state)]
    if not candidates:
        raise ValueError(_nothing(content, states))
    best = min(candidate.rank for candidate in candidates)
    chosen, *others = [candidate for candidate in candidates if candidate.rank == best]
    if others:
        names = " and ".join(one.where or "the top" for one in (chosen, *others))
        raise ValueError(f"holds several networks of equal standing, {names}; save one of them alone")
    start = len(chosen.prefix)
    tensors = {k[start:]: v for k, v in chosen.state.items() if k.startswith(chosen.prefix)}
    for candidate in candidates if not {"masked_embed", "mask_token"} & tensors.keys() else ():
        if (token := candidate.state.get(f"{candidate.prefix}masked_embed")) is not None:
            tensors["masked_embed"] = token
    beside = Counter(_head(k) for k in chosen.state if not k.startswith(chosen.prefix))
    for path, state in states:
        if path != chosen.path:
            shared = next((i for i, key in enumerate(path) if chosen.path[i : i + 1] != (key,)), len(path))
            beside["".join(f"[{key!r}]" for key in path[: shared + 1])] += len(state)
    return FoundState(tensors, chosen.where, dict(beside))


def to_timm(found: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
    """Tensors of an authors' backbone under names that timm's conversions know, and the mask token (1, 1, D)
    of its pretraining, if it has one.

    A mask token stays among the tensors too where timm's conversion looks for it: (1, D), DINOv2's.
    """
    state = {_CHUNKED.sub(r"blocks.\1.", name): value for name, value in found.items()}
    token = state.pop("masked_embed", None)
    if any(name.startswith("decoder_") for name in state):
        state = {name: value for name, value in state.items() if not _DECODER.match(name)}
    if token is None:
        token = state.get("mask_token")
    return state, None if token is None else token.reshape(1, 1, -1)


def describe(state: Mapping[str, Tensor]) -> str:
    """A ViT in a few words, of its tensors: `width 384, 12 blocks, patches of 16, 4 registers`."""
    parts = []
    patch = state.get("patch_embed.proj.weight")
    if patch is not None and patch.ndim == 4:
        parts.append(f"width {patch.shape[0]}")
    blocks = {match[1] for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}
    parts.append(counted(len(blocks), "block"))
    if patch is not None and patch.ndim == 4:
        parts.append(f"patches of {patch.shape[-1]}")
    registers = next(
        (state[n] for n in ("reg_token", "register_tokens", "storage_tokens") if n in state), None
    )
    if registers is not None:
        parts.append(counted(registers.shape[1], "register"))
    if "pos_embed" not in state:
        parts.append("no position table")
    if any(".mlp.w12." in name or ".mlp.fc1_g." in name for name in state):
        parts.append("gated MLPs")
    return ", ".join(parts)


def _states(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """State dicts in nested dicts, and the keys that lead to them."""
    if not isinstance(content, dict):
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    if len(path) < _DEPTH:
        for key, value in content.items():
            yield from _states(value, (*path, str(key)))


def _candidates(path: tuple[str, ...], state: dict[str, Tensor]) -> Iterator[_Candidate]:
    plain = {_WRAPPERS.sub("", name): value for name, value in state.items()}
    for anchor in _ANCHORS:
        for name in plain:
            prefix = name.removesuffix(anchor)
            if name.endswith(anchor) and (not prefix or prefix.endswith(".")):
                yield _Candidate(path, prefix, plain)


def _head(name: str) -> str:
    return name.split(".")[0]


def _nothing(content: Any, states: list[tuple[tuple[str, ...], dict[str, Tensor]]]) -> str:
    """What is wrong with a file without a backbone that is read."""
    wanted = "a ViT under timm's or its authors' names (patch_embed.proj.weight, blocks.0. ...)"
    names = [name for _, state in states for name in state]
    if any("_flat_param" in name for name in names):
        return (
            f"holds one rank's flattened parameters of FSDP ({names[0]}), not {wanted}; give the checkpoint "
            f"of the whole teacher, or gather the ranks' first"
        )
    if any("embeddings.patch_embeddings" in name or "encoder.layer.0." in name for name in names):
        return f"has the names of transformers ({names[0]}), not {wanted}; give the authors' or timm's file"
    if names:
        return (
            f"holds {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}; wanted is {wanted}"
        )
    keys = (
        ", ".join(map(str, list(content)[:_SHOWN])) if isinstance(content, dict) else type(content).__name__
    )
    return f"holds no state dict (names to tensors) but {keys or 'nothing'}; wanted is {wanted}"
