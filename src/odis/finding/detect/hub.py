"""Networks of the transformers library: from a folder, or by name from the hub or its cache on this
machine.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from odis.config.wording import counted
from odis.errors import ConfigError, DataError, OdisError
from odis.finding.detect.torchvision_models import file_hash

_TRUE = {"1", "on", "yes", "true"}  # what huggingface_hub takes for true in its variables


@dataclass(slots=True)
class Pretrained:
    """A network with what prepares its inputs, and what they are called in provenance."""

    model: Any
    processor: Any
    name: str
    revision: str
    kind: str  # `model_type` of its configuration


def load_pretrained(source: str, task: str, option: str) -> Pretrained:
    """Load a network and its processor; no code from the hub or the folder is run.

    The revision of a folder is the first twelve hex digits of the SHA-256 of its weights; that of the hub is
    the commit.

    Args:
        source: A folder that `save_pretrained` wrote, or a name on the hub, `OWNER/NAME` or
            `OWNER/NAME@REVISION`.
        task: Name of the `AutoModel` class.
        option: The option that named it, for messages.

    Raises:
        OdisError: transformers is not installed, or the network cannot be had from the hub.
        ConfigError: It is a network for something else.
        DataError: The folder holds no whole network.
    """
    try:
        import transformers
    except ImportError as error:
        raise OdisError(f"{option}: transformers is not installed; pip install 'odis[detect]'") from error
    folder = Path(source) if Path(source).is_dir() else None
    name, _, revision = (source, "", "") if folder else source.partition("@")
    if not name:
        raise ConfigError(
            f"{option}: transformers: needs a folder or a name on the hub, such as transformers:OWNER/NAME"
        )
    where: dict[str, Any] = {
        "trust_remote_code": False,  # else the library asks on a terminal whether to run it
        "local_files_only": folder is not None or os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE,
    }
    if revision:
        where["revision"] = revision
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(name, **where)
    except Exception as error:  # OSError, ValueError, and whatever the network raises
        raise _not_had(source, folder, option, error) from error
    auto = getattr(transformers, task)
    if type(config) not in auto._model_mapping:
        raise ConfigError(
            f"{option}: {source} is a {config.model_type} network; {task} loads {', '.join(_kinds(auto))}"
        )
    try:
        processor = transformers.AutoProcessor.from_pretrained(name, **where)
        model, info = auto.from_pretrained(name, output_loading_info=True, **where)
    except Exception as error:
        raise _not_had(source, folder, option, error) from error
    if missing := sorted(info["missing_keys"]):  # the library would start them at random
        raise DataError(
            f"{option}: the weights of {source} lack {missing[0]}"
            + (f" and {counted(len(missing) - 1, 'other')}" * (len(missing) > 1))
        )
    if folder is None:
        # In the hub's cache the files of a commit lie in snapshots/COMMIT.
        snapshot = Path(str(transformers.utils.cached_file(name, "config.json", **where))).parent
        return Pretrained(model.float(), processor, name, snapshot.name, config.model_type)
    return Pretrained(model.float(), processor, folder.resolve().name, folder_hash(folder), config.model_type)


def folder_hash(folder: Path) -> str:
    """`file_hash` of the weights that `save_pretrained` wrote into a folder.

    Raises:
        DataError: There are none, or one cannot be read.
    """
    weights = sorted(
        path for pattern in ("*.safetensors", "pytorch_model*.bin") for path in folder.glob(pattern)
    )
    if not weights:
        raise DataError(f"{folder}: has no weights (.safetensors) in it")
    return file_hash(*weights)


def encoder_of(model: Any, paths: Collection[str]) -> torch.nn.Module | None:
    """The first of the dotted `paths` that is a part of `model`: its image encoder, where the time goes."""
    for path in paths:
        part = model
        for name in path.split("."):
            part = getattr(part, name, None)
        if isinstance(part, torch.nn.Module):
            return part
    return None


def _kinds(auto: Any) -> list[str]:
    return sorted({config.model_type for config in auto._model_mapping})


def _not_had(source: str, folder: Path | None, option: str, error: Exception) -> OdisError:
    why = " ".join(str(error).split())
    why = why if len(why) <= 200 else why[:197] + "..."
    if "trust_remote_code" in str(error):
        why = "it needs code of its own, and no code from a folder or the hub is run"
    if folder is not None:
        return DataError(f"{option}: {source} holds no network that transformers can load ({why})")
    return OdisError(
        f"{option}: transformers:{source} is no folder here, and cannot be had from the hub ({why}); "
        f"without a network, give a folder "
        "that save_pretrained wrote, or set HF_HOME to a cache that holds it and HF_HUB_OFFLINE=1"
    )
