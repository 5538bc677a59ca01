"""A checkpoint of which every rank writes its part: `torch.distributed.checkpoint`, in a folder.

Shards are safetensors files, in which DCP notes where each part of a tensor belongs, so any number of ranks
reads what any number wrote. All else is in `state.pt`, which is written last: the tree of the state, with a
note in place of each sharded tensor, and the size and checksum of each shard. The folder gets its name when
all is there. Loading executes no code: DCP's own format would unpickle its metadata.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from odis.config.wording import counted
from odis.errors import DataError, OdisError
from odis.machine.checksums import crc_of, seal_archive, verify_archive
from odis.machine.files import check_readable, remove_folder, written_whole
from odis.machine.folders import written_folder
from odis.machine.ranks import Ranks
from odis.machine.shards import is_sharded

SUFFIX = ".sharded"
STATE = "state.pt"
_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_NOTE = "sharded tensor"  # the one key of a note

Target = Callable[[str, torch.Size, torch.dtype], Tensor]
"""Where a sharded tensor of this name, shape and type is read to: a plain tensor, or one that is sharded."""


def write_shards(path: Path, state: dict[str, Any], ranks: Ranks) -> None:
    """Write a state into a new folder. All ranks call it.

    Args:
        path: The folder; one that is there is replaced.
        state: Dicts and lists with tensors, some of them sharded. What is not sharded is the first rank's.
        ranks: This rank.

    Raises:
        DataError: on all ranks, if one cannot write. Nothing of the folder stays.
    """
    tensors: dict[str, Tensor] = {}
    tree = _noted(state, tensors)
    with contextlib.ExitStack() as stack:

        def begin() -> str:
            remove_folder(path)
            return str(stack.enter_context(written_folder(path)))

        beside = Path(ranks.from_first(begin))
        fault = None
        try:
            writer = HuggingFaceStorageWriter(str(beside), save_distributed=True)
            state_dict_saver.save(tensors, storage_writer=writer, process_group=ranks.control)
            mine = [(one.name, one.stat().st_size, crc_of(one)) for one in _shards(beside, ranks.rank)]
        except (CheckpointException, OSError, RuntimeError) as error:
            fault, mine = f"rank {ranks.rank}: {_reason(error)}", []
        everyone = ranks.gather((mine, fault))
        faults = [fault for _, fault in everyone if fault is not None]
        if faults:
            raise DataError(f"{path}: cannot be written ({faults[0]})")
        sums = {name: [size, crc] for written, _ in everyone for name, size, crc in written}

        def finish() -> None:
            with (
                written_whole(beside / STATE, errors=(RuntimeError,), seal=seal_archive) as file,
                file.open("wb") as stream,
            ):
                torch.save({"tree": tree, "shards": sums}, stream)
            stack.close()

        ranks.from_first(finish)


def read_shards(path: Path, target: Target | None = None, share: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """The state in a folder of shards.

    Args:
        path: The folder.
        target: Where sharded tensors are read to; by default whole tensors on the CPU.
        share: Of the shards those are verified that are the first of two numbers, modulo the second: ranks
            that all read verify each a part.

    Raises:
        DataError: if a file is missing, damaged, or does not belong to the others.
        ConfigError: from `target`.
    """
    tree = _verified(path, share)
    place = target or (lambda name, shape, dtype: torch.empty(shape, dtype=dtype))
    try:
        notes: dict[str, tuple[torch.Size, torch.dtype]] = {}
        _mapped(tree, "", lambda name, note: notes.update({name: _read_note(note)}))
        reader = HuggingFaceStorageReader(str(path))
        _compare(path, notes, reader.read_metadata().state_dict_metadata)
        tensors = {name: place(name, *note) for name, note in notes.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # each rank reads its own
            state_dict_loader.load(tensors, storage_reader=reader, no_dist=True)
        filled: dict[str, Any] = _mapped(tree, "", lambda name, note: tensors[name])
    except OdisError:
        raise
    except (Exception, CheckpointException) as error:
        raise DataError(f"{path}: is damaged ({type(error).__name__}: {_reason(error)})") from error
    return filled


def verify_shards(path: Path) -> None:
    """Compare a folder of shards with its checksums.

    Raises:
        DataError: They differ, or a file is missing.
    """
    _verified(path)


def _verified(path: Path, share: tuple[int, int] = (0, 1)) -> Any:
    """The tree in a folder whose files are those that were written."""
    check_readable(path)
    if not (path / STATE).is_file():
        raise DataError(f"{path}: {STATE} is missing, which is written last")
    verify_archive(path / STATE)
    try:
        found = torch.load(path / STATE, map_location="cpu", weights_only=True)
        tree, shards = found["tree"], found["shards"]
        sums = {name: (int(size), int(crc)) for name, (size, crc) in shards.items()}
        odd = [name for name in sums if not _SHARD.fullmatch(name)]
    except Exception as error:  # damaged files raise anything
        raise DataError(f"{path / STATE}: is damaged ({type(error).__name__})") from error
    odd += sorted({one.name for one in _shards(path)} - sums.keys())
    if odd:
        raise DataError(f"{path}: {odd[0]!r} is no shard of this checkpoint")
    first, step = share
    for i, (name, (size, crc)) in enumerate(sorted(sums.items())):
        file = path / name
        if not file.is_file():
            raise DataError(f"{path}: {name} is missing, one of {counted(len(sums), 'shard')}")
        if file.stat().st_size != size or (i % step == first and crc_of(file) != crc):
            raise DataError(f"{file}: is damaged: its checksum is not the one that was written")
    return tree


def _compare(path: Path, notes: dict[str, tuple[torch.Size, torch.dtype]], kept: dict[str, Any]) -> None:
    """Refuse shards that hold other tensors than the tree has places for: DCP reads what it is asked for."""
    if notes.keys() != kept.keys():
        name = min(notes.keys() ^ kept.keys())
        raise DataError(f"{path}: {name} is {'in no shard' if name in notes else 'in a shard alone'}")
    for name, (shape, dtype) in notes.items():
        there = kept[name]
        if (
            not isinstance(there, TensorStorageMetadata)
            or there.size != shape
            or there.properties.dtype != dtype
        ):
            raise DataError(f"{path}: {name} has another shape or type in its shards")
        if sum(chunk.sizes.numel() for chunk in there.chunks) != shape.numel():
            raise DataError(f"{path}: {name} is not whole")


def _shards(folder: Path, rank: int | None = None) -> list[Path]:
    """The shards in a folder; those that one rank wrote."""
    of_rank = "?????" if rank is None else f"{rank + 1:05d}"
    return sorted(folder.glob(f"shard-{of_rank}-*.safetensors"))


def _noted(state: Any, tensors: dict[str, Tensor]) -> Any:
    """A tree with notes in place of sharded tensors, which are put into `tensors` by name."""

    def note(name: str, tensor: Tensor) -> dict[str, Any]:
        tensors[name] = tensor.detach()
        return {_NOTE: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]}

    return _mapped(state, "", note)


def _mapped(tree: Any, name: str, function: Callable[[str, Any], Any]) -> Any:
    """A tree with `function(name, what)` in place of each sharded tensor and each note."""
    if isinstance(tree, Tensor):
        return function(name, tree) if is_sharded(tree) else tree
    if isinstance(tree, dict):
        if tree.keys() == {_NOTE}:
            return function(name, tree)
        return {k: _mapped(value, f"{name}/{k}" if name else str(k), function) for k, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([_mapped(value, f"{name}/{i}", function) for i, value in enumerate(tree)])
    return tree


def _read_note(note: dict[str, Any]) -> tuple[torch.Size, torch.dtype]:
    shape, name = note[_NOTE]
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name!r} is no type")
    return torch.Size(shape), dtype


def _reason(error: BaseException) -> str:
    """Why, in one line: of several ranks' failures, the first."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]
