"""Two folders for transformers: one that it opens alone, and one of odis' own class, which takes objects.

native/   AutoModel and AutoImageProcessor; `[CLS]` and patches; odis is not needed
odis/     the same, after `import odis.exporting.transformers_model`; objects, image, patches
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from odis.backbones.weights import one_line
from odis.config.pixels import RGB
from odis.errors import OdisError
from odis.exporting.extra import transformers
from odis.exporting.native import (
    CLASSES,
    Native,
    native_config,
    native_fault,
    native_weights,
    nearest,
)
from odis.exporting.network import Exported, any_size
from odis.exporting.parity import (
    Deviation,
    Outputs,
    Probe,
    class_token,
    compare,
    odis_outputs,
    probes,
    whole_pass,
)
from odis.exporting.prefix import first_patch
from odis.machine.files import write_json_whole, written_whole

NATIVES: tuple[Native, ...] = tuple(CLASSES)
_WEIGHTS = "model.safetensors"


def choose_native(exported: Exported, wanted: str | None) -> tuple[Native, str | None]:
    """The architecture to write, and why it cannot be; None if it can.

    Args:
        exported: The model.
        wanted: One of `NATIVES`, or None for the nearest.

    Raises:
        OdisError: The network does not fit the one that is wanted.
    """
    native = nearest(exported.network)
    if wanted is None:
        return native, native_fault(exported.network, native)
    chosen = next((one for one in NATIVES if one == wanted), None)
    if chosen is None:
        raise OdisError(f"native {wanted!r} must be one of {', '.join(NATIVES)}")
    if (fault := native_fault(exported.network, chosen)) is not None:
        raise OdisError(
            f"native {chosen}: {exported.encoder.source}: {fault}, for which {CLASSES[chosen]} has no place"
        )
    return chosen, None


def preprocessor(exported: Exported) -> dict[str, Any]:
    """`preprocessor_config.json`, with every field: defaults differ between classes and between versions."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": exported.encoder.pixels == RGB,
        "do_resize": True,
        "size": {"height": exported.size, "width": exported.size},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(exported.encoder.mean),
        "image_std": list(exported.encoder.std),
    }


def equal_everywhere(exported: Exported, native: Native) -> bool:
    """Whether the architecture has odis' positions at every size."""
    return native in ("dinov2_with_registers", "dinov3_vit") and any_size(exported.network)


def write_native(folder: Path, exported: Exported, native: Native) -> list[Deviation]:
    """Write the folder that transformers opens alone, open it and compare.

    Raises:
        OdisError: transformers does not take it, or answers otherwise.
    """
    library = transformers("--to transformers")
    if not any_size(exported.network) and exported.size != exported.encoder.image_size:
        raise OdisError(f"size {exported.size}: this network is exported at {exported.encoder.image_size}")
    settings = native_config(exported, native)
    kind = CLASSES[native].replace("Model", "Config")
    config = getattr(library, kind)(architectures=[CLASSES[native]], **settings)
    write_json_whole(folder / "config.json", config.to_dict() | settings)
    write_json_whole(folder / "preprocessor_config.json", preprocessor(exported))
    with written_whole(folder / _WEIGHTS, errors=(SafetensorError,)) as beside:
        save_file(native_weights(exported, native), beside, metadata={"format": "pt"})
    try:
        model = library.AutoModel.from_pretrained(folder, local_files_only=True).eval()
        library.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever it likes
        raise OdisError(f"transformers does not open what was written: {one_line(error)}") from error
    side = exported.size // exported.encoder.patch_size
    sizes = [(side, side)]
    if equal_everywhere(exported, native):
        sizes += [(side, side + 2), (max(2, side // 2), side)]
    return compare(
        f"transformers' {CLASSES[native]}",
        exported,
        lambda given: _ask_native(model, exported, given),
        list(probes(exported, sizes=sizes, counts=[0])),
        expected=lambda given: odis_outputs(exported, given) | {"image": first_token(exported, given)},
    )


def elsewhere(folder: Path, exported: Exported, native: Native) -> float | None:
    """Smallest cosine of a patch to odis' at one and a half times the size, where the folder interpolates
    positions by another rule; None where it does not.
    """
    if equal_everywhere(exported, native):
        return None
    model = transformers("--to transformers").AutoModel.from_pretrained(folder, local_files_only=True).eval()
    side = exported.size // exported.encoder.patch_size
    (given,) = probes(exported, sizes=[(side + side // 2, side + side // 2)], counts=[0])
    more = {"interpolate_pos_encoding": True} if native == "vit" else {}
    found = _ask_native(model, exported, given, **more)["patches"]
    patches = odis_outputs(exported, given)["patches"]
    return float(torch.cosine_similarity(found.double(), patches.double(), dim=-1).min())


@torch.no_grad()
def _ask_native(model: Any, exported: Exported, given: Probe, **more: Any) -> Outputs:
    out = model(pixel_values=given.normalized(exported), **more)
    return {"image": out.pooler_output, "patches": out.last_hidden_state[:, first_patch(exported) :]}


def first_token(exported: Exported, given: Probe) -> torch.Tensor:
    """`[CLS]`, also of a model whose objects are means."""
    image = whole_pass(exported, given).image
    return class_token(exported, given) if image is None else image


def write_own(folder: Path, exported: Exported) -> list[Deviation]:
    """Write the folder of odis' own class, open it and compare.

    Raises:
        OdisError: transformers does not take it, or answers otherwise.
    """
    library = transformers("--to transformers")
    from odis.exporting.transformers_model import OdisConfig, OdisModel

    config = OdisConfig(card=exported.card)
    config.architectures = [OdisModel.__name__]
    write_json_whole(folder / "config.json", config.to_dict())
    write_json_whole(folder / "preprocessor_config.json", preprocessor(exported))
    with written_whole(folder / _WEIGHTS, errors=(SafetensorError,)) as beside:
        weights = {f"backbone.{key}": value for key, value in exported.network.state_dict().items()}
        save_file({k: v.contiguous() for k, v in weights.items()}, beside, metadata={"format": "pt"})
    try:
        model = library.AutoModel.from_pretrained(folder, local_files_only=True).eval()
        library.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever it likes
        raise OdisError(f"transformers does not open what was written: {one_line(error)}") from error
    side = exported.size // exported.encoder.patch_size
    return compare(
        "transformers' OdisModel",
        exported,
        lambda given: _ask_own(model, exported, given),
        list(
            probes(
                exported, sizes=[(side, side), (side, side + 2), (max(2, side // 2), side)], counts=[3, 0, 1]
            )
        ),
    )


@torch.no_grad()
def _ask_own(model: Any, exported: Exported, given: Probe) -> Outputs:
    out = model(pixel_values=given.normalized(exported), object_masks=given.masks)
    return {
        "objects": out.object_features,
        "image": out.pooler_output,
        "patches": out.last_hidden_state[:, 1:],
    }
