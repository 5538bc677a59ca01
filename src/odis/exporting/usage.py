"""The `usage.py` that lies in an exported folder: a program that runs there as it is."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from odis.config.pixels import RGB
from odis.inference.encoder import Encoder

_TIMM = '''"""This folder with timm: python usage.py {argument}"""

import sys
from pathlib import Path

import timm
{numpy}import torch
from PIL import Image
{prepare}here = Path(__file__).resolve().parent
model = timm.create_model(f"local-dir:{{here}}", pretrained=True, num_classes=0).eval()
{reader}
{read}
with torch.inference_mode():
    tokens = model.forward_features(pixels)
    image = model.forward_head(tokens, pre_logits=True)  # (1, D)
patches = tokens[:, model.num_prefix_tokens :]  # (1, P, D), row by row
print(tuple(image.shape), tuple(patches.shape))
'''

_NATIVE = '''"""This folder with transformers, without odis: python usage.py {argument}"""

import sys
from pathlib import Path

{numpy}import torch
from PIL import Image
from transformers import {classes}
{prepare}here = Path(__file__).resolve().parent
{reader}model = AutoModel.from_pretrained(here).eval()

{read}
with torch.inference_mode():
    out = model({given})
image = out.pooler_output  # (1, D)
first = 1 + getattr(model.config, "num_register_tokens", 0)
patches = out.last_hidden_state[:, first:]  # (1, P, D), row by row
print(tuple(image.shape), tuple(patches.shape))
'''

_OWN = '''"""This folder with transformers and odis, objects too: python usage.py {argument}"""

import sys
from pathlib import Path

{numpy}import torch
from PIL import Image
from transformers import {classes}

import odis.exporting.transformers_model  # registers the class
{prepare}here = Path(__file__).resolve().parent
{reader}model = AutoModel.from_pretrained(here).eval()

{read}
patch = model.config.card["patch_size"]
rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
masks = torch.zeros(1, 2, rows, columns, dtype=torch.bool)  # the patches of two objects
masks[0, 0, :, : columns // 2] = True  # the left half
masks[0, 1, : rows // 2] = True  # the upper half
with torch.inference_mode():
    out = model(pixels, object_masks=masks)
objects, image = out.object_features, out.pooler_output  # (1, 2, D), (1, D)
patches = out.last_hidden_state[:, 1:]  # (1, P, D), row by row
print(tuple(objects.shape), tuple(image.shape), tuple(patches.shape))
'''

_PREPARE = '''

def prepare(photo, size, mean, std):
    """(1, 3, size, size): resized to the square, normalised."""
    resized = np.asarray(photo.convert("RGB").resize((size, size), Image.Resampling.BICUBIC), np.float32)
    return ((resized / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)

'''

_PREPARE_ARRAY = '''

def prepare(pixels, size, mean, std):
    """(1, C, size, size): each channel resized to the square, normalised."""
    planes = [Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC) for plane in pixels]
    return ((np.stack(planes, axis=2) / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)

'''

_MASK = '''
def patches_of(box, rows, columns, patch):
    """bool (rows, columns): the patches of a box (x0, y0, x1, y1) in pixels of the resized image."""
    x, y = np.arange(columns) * patch, np.arange(rows) * patch
    across = np.clip(np.minimum(box[2], x + patch) - np.maximum(box[0], x), 0, None)
    down = np.clip(np.minimum(box[3], y + patch) - np.maximum(box[1], y), 0, None)
    share = down[:, None] * across[None]
    mask = (share > 0) & (share >= {coverage} * share.max()){whole}
    for axis in (0, 1):  # wider by {margin} patches on every side
        grown = np.pad(mask, {margin})
        views = [np.roll(grown, shift, axis) for shift in range(-{margin}, {margin} + 1)]
        mask = np.any(views, axis=0)[{margin} : {margin} + rows, {margin} : {margin} + columns]
    return mask

'''

_ONNX = '''"""This folder with ONNX Runtime: python usage.py {argument}"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
{prepare}{mask}
here = Path(__file__).resolve().parent
session = onnxruntime.InferenceSession(here / "model.onnx", providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
size, patch = int(about["image_size"]), int(about["patch_size"])
mean, std = (np.array(about[name].split(), np.float32) for name in ("mean", "std"))

{read}
pixels = prepare(photo, size, mean, std)
box = np.array([0, 0, {width} / 2, {height} / 2])  # the upper left quarter of the photograph
box *= np.array([size / {width}, size / {height}] * 2)  # in pixels of the resized image
{given}
inputs = {{"pixel_values": pixels, {name!r}: given}}
objects, image, patches = session.run(["objects", "image", "patches"], inputs)
print(objects.shape, image.shape, patches.shape)  # (1, Q, D), (1, D), (1, P, D)
'''

_PROGRAM = '''"""This folder with torch alone: python usage.py {argument}"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
{prepare}{mask}
size, patch = {size}, {patch}
mean, std = np.array({mean}, np.float32), np.array({std}, np.float32)
program = torch.export.load(Path(__file__).resolve().parent / "model.pt2").module()

{read}
pixels = prepare(photo, size, mean, std)
box = np.array([0, 0, {width} / 2, {height} / 2])  # the upper left quarter of the photograph
box *= np.array([size / {width}, size / {height}] * 2)  # in pixels of the resized image
{given}
with torch.inference_mode():
    objects, image, patches = program(torch.from_numpy(pixels), torch.from_numpy(given))
print(tuple(objects.shape), tuple(image.shape), tuple(patches.shape))  # (1, Q, D), (1, D), (1, P, D)
'''


# Where a program reads a photograph; or an array of other channels, which no library of images reads alike.
_PHOTO = {
    "argument": "photo.jpg",
    "prepare": _PREPARE,
    "read": "photo = Image.open(sys.argv[1])",
    "width": "photo.width",
    "height": "photo.height",
}
_ARRAY = {
    "prepare": _PREPARE_ARRAY,
    "read": "array = np.load(sys.argv[1])\nheight, width, _ = array.shape\nphoto = array.transpose(2, 0, 1)",
    "width": "width",
    "height": "height",
}

# How a library reads a photograph, in its programs.
_PROCESSOR = "processor = AutoImageProcessor.from_pretrained(here)\n"
_PROCESSED = 'processor(images=Image.open(sys.argv[1]).convert("RGB"), return_tensors="pt")'
_READERS = {
    "timm": "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), "
    "is_training=False)\n",
    "native": _PROCESSOR,
    "own": _PROCESSOR,
}
_READS = {
    "timm": 'pixels = transform(Image.open(sys.argv[1]).convert("RGB")).unsqueeze(0)',
    "native": f"inputs = {_PROCESSED}",
    "own": f"pixels = {_PROCESSED}.pixel_values",
}


def _input(encoder: Encoder) -> dict[str, str]:
    """What the templates of programs without a library for images hold."""
    return _PHOTO if encoder.pixels == RGB else _ARRAY | {"argument": _argument(encoder)}


def _argument(encoder: Encoder) -> str:
    """The array that a program takes, and what its numbers are."""
    channels, ranges = encoder.pixels.channels, encoder.pixels.ranges
    text = f"pixels.npy: uint8 (height, width, {channels})"
    if ranges is None:
        return text
    numbers = ", ".join(f"{low:g} to {high:g}" for low, high in ranges)
    return f"{text}\n\n{fill(f'Its numbers are those of the files from {numbers}, as 0 to 255.', _WIDTH)}\n"


def _listed(values: Sequence[float]) -> str:
    """A list in as many lines as it needs."""
    within = fill(", ".join(map(repr, values)), _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"[\n{within}\n]" if len(within) > _WIDTH // 2 else f"[{within.strip()}]"


_WIDTH = 100  # of a line

_OF_LIBRARY = {"timm": _TIMM, "native": _NATIVE, "own": _OWN}


def library_usage(library: str, encoder: Encoder, size: int) -> str:
    """For a folder of `timm`, of transformers alone (`native`), or of transformers with odis (`own`)."""
    if encoder.pixels == RGB:
        return _OF_LIBRARY[library].format(
            argument="photo.jpg", numpy="", classes="AutoImageProcessor, AutoModel", prepare="\n",
            reader=_READERS[library], read=_READS[library], given="**inputs",
        )  # fmt: skip
    read = (
        f"mean = {_listed(encoder.mean)}\nstd = {_listed(encoder.std)}\n"
        f"array = np.load(sys.argv[1]).transpose(2, 0, 1)\n"
        f"pixels = torch.from_numpy(prepare(array, {size}, mean, std))"
    )
    return _OF_LIBRARY[library].format(
        argument=_argument(encoder), numpy="import numpy as np\n", classes="AutoModel",
        prepare=_PREPARE_ARRAY, reader="", read=read, given="pixels",
    )  # fmt: skip


def onnx_usage(objects: str, encoder: Encoder) -> str:
    """For a folder with `model.onnx`; `objects` is what the graph takes."""
    mask, given = _objects(objects, encoder)
    name = "object_masks" if objects == "masks" else "boxes"
    return _ONNX.format(mask=mask, given=given, name=name, **_input(encoder))


def program_usage(objects: str, encoder: Encoder, size: int) -> str:
    """For a folder with `model.pt2`."""
    mask, given = _objects(objects, encoder)
    pixels = {"mean": list(encoder.mean), "std": list(encoder.std)}
    numbers = {"size": size, "patch": encoder.patch_size, **pixels}
    return _PROGRAM.format(mask=mask, given=given, **numbers, **_input(encoder))


def _objects(objects: str, encoder: Encoder) -> tuple[str, str]:
    """How masks are made, if they are asked for, and the line that gives one object."""
    if objects == "boxes":
        return "", "given = box[None, None].astype(np.float32)  # (1, Q, 4)"
    line = "given = patches_of(box, size // patch, size // patch, patch)[None, None]  # (1, Q, rows, columns)"
    fill = "\n    mask = np.outer(mask.any(axis=1), mask.any(axis=0))"
    whole = fill if encoder.mask_shape == "component-boxes" else ""
    return _MASK.format(coverage=encoder.mask_coverage, margin=encoder.mask_margin, whole=whole), line
