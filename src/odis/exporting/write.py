"""`odis.export`: one model, one target, one folder that is there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from odis import __version__
from odis.backbones.saved import save_model
from odis.config.arguments import with_values
from odis.config.wording import counted, did_you_mean
from odis.errors import OdisError
from odis.exporting import usage
from odis.exporting.card import check_license, model_card, read_record
from odis.exporting.extra import quiet, required
from odis.exporting.graph import Objects, trace
from odis.exporting.native import CLASSES, Native
from odis.exporting.network import NOT_OURS, Exported
from odis.exporting.onnx_file import Variant, file_name, write_onnx, write_variant
from odis.exporting.onnx_knn import check_labels, knn_loss
from odis.exporting.parity import Deviation, Probe, class_token, in_words, odis_outputs, probes
from odis.exporting.prefix import first_patch, is_beside
from odis.exporting.program_file import FILE, write_program
from odis.exporting.settings import ExportSettings
from odis.exporting.timm_folder import write_timm
from odis.exporting.transformers_folder import (
    choose_native,
    elsewhere,
    first_token,
    preprocessor,
    write_native,
    write_own,
)
from odis.inference.encoder import Encoder
from odis.inference.load import load
from odis.machine.files import write_json_whole, write_text_whole
from odis.machine.folders import check_new_folder, written_folder
from odis.types import Skipped

Say = Callable[[str], None]
Skip = Callable[[Skipped], None]

_SAME = 0.9999  # cosine

_NEEDED = {
    "transformers": ("transformers",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "hub-folder": ("transformers", "onnx", "onnxscript", "onnxruntime"),
}


def export(
    model: str | Path | Encoder,
    to: str,
    out: str | Path,
    *,
    report: Say | None = None,
    skip: Skip | None = None,
    **settings: Any,
) -> Path:
    """Write a model for another library, as `odis export` does, and hold it against odis.

    `odis.export("runs/coco", "onnx", "coco-onnx", variants=["int8"], data="coco-val.parquet")`

    Args:
        model: A run's folder, a `model.safetensors`, a checkpoint, or an encoder that `odis.load` returned.
        to: `timm`, `transformers`, `onnx`, `torch-export` or `hub-folder`.
        out: Folder to write, new or empty. It gets its name when everything in it was opened and compared.
        report: Called with each line that says what was measured.
        skip: Called with each file and object of `data` that cannot be used.
        settings: Options of the command, `_` for `-`: `size`, `native`, `objects`, `variants`, `data`,
            `results`, `license`.

    Returns:
        `out`: with the target's files, a `usage.py` that runs as it is, and `export.json`: what was measured.

    Raises:
        OdisError: For settings that do not go together, a model that has no place in the target, or an export
            that differs from odis by more than rounding. Nothing is written then.
    """
    if not isinstance(model, str | Path | Encoder):
        raise OdisError(f"model: is {model!r}, must be a path or an encoder")
    if not isinstance(out, str | Path):
        raise OdisError(f"out: is {out!r}, must be a path")
    chosen, names = with_values(ExportSettings(), settings)
    for key in settings:
        if key not in names:
            close = did_you_mean(key, names)
            raise OdisError(f"{key}: an export has no such setting{close}; it has {', '.join(names)}")
    chosen.check(to)
    run_export(model, to, out, chosen, say=report or (lambda line: None), skip=skip)
    return Path(out)


def run_export(
    model: str | Path | Encoder,
    to: str,
    out: str | Path,
    settings: ExportSettings,
    *,
    say: Say,
    skip: Skip | None = None,
) -> None:
    """Write the folder; see `export`. Settings are checked already."""
    check_license(settings.license)
    check_new_folder(out)
    for name in _NEEDED.get(to, ()):
        required(f"--to {to}", name)
    if str(model).startswith("timm:"):  # before its weights are fetched
        raise OdisError(f"{model}: {NOT_OURS}")
    encoder = model if isinstance(model, Encoder) else load(model, device="cpu", precision="fp32")
    source = encoder.source if isinstance(model, Encoder) else str(model)
    exported = Exported.of(encoder, settings.size)
    with written_folder(out) as folder, quiet():
        writer = Writer(exported, settings, say, skip, source, Path(out).resolve().name)
        getattr(writer, to.replace("-", "_"))(folder)
        write_json_whole(folder / "export.json", writer.about(to))


class Writer:
    """Writes one folder, and keeps what was measured.

    Args:
        exported: The model.
        settings: What was asked for.
        say: Called with each line that says what was measured.
        skip: Called with what of the data cannot be used.
        source: Path that the model was loaded from.
        name: Of the folder.
    """

    def __init__(
        self,
        exported: Exported,
        settings: ExportSettings,
        say: Say,
        skip: Skip | None,
        source: str,
        name: str,
    ) -> None:
        self.exported, self.settings, self.skip = exported, settings, skip
        self.source, self.name, self._say = source, name, say
        self.objects: Objects = "boxes" if settings.objects == "boxes" else "masks"
        self.parity: dict[str, list[Deviation]] = {}
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.knn: dict[str, Any] | None = None

    def about(self, to: str) -> dict[str, Any]:
        """What `export.json` holds."""
        path = Path(self.source)
        versions = {}
        for name in ("torch", "timm", "transformers", "onnx", "onnxscript", "onnxruntime"):
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                continue
        return {
            "target": to,
            "odis_version": __version__,
            "source": path.parent.name if path.name == "model.safetensors" else path.name,
            "model": self.exported.card,
            "size": self.exported.size,
            "parity": {name: [one.as_dict() for one in found] for name, found in self.parity.items()},
            "notes": self.notes,
            "knn": self.knn,
            "versions": versions,
        }

    def timm(self, folder: Path) -> None:
        """For timm."""
        self._measured("timm", write_timm(folder, self.exported))
        self._note_image("timm", class_token)
        write_text_whole(folder / "usage.py", self._usage("timm"))

    def transformers(self, folder: Path) -> None:
        """For transformers: `native`, if it has such an architecture, and `odis`."""
        self._native(folder / "native")
        self._measured("transformers with odis", write_own(folder / "odis", self.exported))
        write_text_whole(folder / "odis" / "usage.py", self._usage("own"))

    def onnx(self, folder: Path) -> None:
        """For ONNX Runtime."""
        index = check_labels(self.settings.data) if self.settings.data else None
        folder.mkdir(exist_ok=True)
        program = trace(self.exported, self.objects)
        files = {"fp32": folder / file_name()}
        self._measured("ONNX", write_onnx(files["fp32"], self.exported, program, self.objects))
        variants: Sequence[Variant] = [one for one in ("fp16", "int8") if one in self.settings.variants]
        for variant in variants:
            files[variant] = folder / file_name(variant)
            found = write_variant(files[variant], files["fp32"], self.exported, self.objects, variant)
            self._measured(f"ONNX {variant}", found)
        if index is not None:
            loss = knn_loss(index, self.exported, files, self.objects, self.skip)
            for line in loss.in_words():
                self._line(line)
            self.knn = {
                "index": loss.index,
                "neighbours": loss.neighbours,
                "gallery": loss.gallery,
                "test": loss.test,
                "accuracy": loss.accuracy,
                "skipped": loss.skipped,
            }
        write_text_whole(folder / "usage.py", usage.onnx_usage(self.objects, self.exported.encoder))

    def torch_export(self, folder: Path) -> None:
        """For torch alone."""
        program = trace(self.exported, self.objects)
        self._measured("torch.export", write_program(folder / FILE, self.exported, program, self.objects))
        text = usage.program_usage(self.objects, self.exported.encoder, self.exported.size)
        write_text_whole(folder / "usage.py", text)

    def hub_folder(self, folder: Path) -> None:
        """For a hub: all of it, with a model card. Nothing is sent."""
        record = read_record(self.source, self.exported.card, self.settings.results)
        if record.left_out:
            self._note(
                f"{counted(record.left_out, 'result in the files is', 'results in the files are')} of other "
                f"models or steps: left out"
            )
        self.timm(folder)
        native = self._native(folder / "transformers")
        if native is not None:  # AutoImageProcessor does not look into folders
            write_json_whole(folder / "preprocessor_config.json", preprocessor(self.exported))
        self.onnx(folder / "onnx")
        save_model(folder / "odis" / "model.safetensors", self.exported.network, self.exported.card)
        class_name = None if native is None else CLASSES[native]
        text = model_card(
            self.name, self.exported, record, self.lines, self.notes, class_name, self.objects,
            self.settings.license,
        )  # fmt: skip
        write_text_whole(folder / "README.md", text)
        self._say(f"{self.name}: nothing was sent; `hf upload OWNER/NAME FOLDER` sends it")

    def _usage(self, library: str) -> str:
        return usage.library_usage(library, self.exported.encoder, self.exported.size)

    def _native(self, folder: Path) -> Native | None:
        native, fault = choose_native(self.exported, self.settings.native)
        if fault is not None:
            self._note(
                f"transformers has no architecture for this network ({fault}): no folder `{folder.name}`"
            )
            return None
        self._measured(f"transformers' {CLASSES[native]}", write_native(folder, self.exported, native))
        if (cosine := elsewhere(folder, self.exported, native)) is not None:
            size, other = self.exported.size, self.exported.size * 3 // 2
            self._note(
                f"{CLASSES[native]} equals odis at {size} x {size} pixels; it interpolates positions by "
                f"another rule, and at about {other} x {other} patches have a cosine to odis of {cosine:.6f} "
                f"or more (--native dinov2_with_registers is equal at every size)"
            )
        self._note_image("transformers", first_token)
        write_text_whole(folder / "usage.py", self._usage("native"))
        return native

    def _note_image(self, library: str, feature: Callable[[Exported, Probe], torch.Tensor]) -> None:
        """Say what a library's image feature is, where it is not odis' own."""
        side = self.exported.size // self.exported.encoder.patch_size
        (given,) = probes(self.exported, sizes=[(side, side)], counts=[0])
        own, there = odis_outputs(self.exported, given)["image"], feature(self.exported, given)
        cosine = float(torch.cosine_similarity(own, there, dim=-1).min())
        if cosine < _SAME:
            ours = "the mean of the patches" if self.exported.pooled else "[OBJ] over the whole image"
            if is_beside(self.exported.network):
                ours += f", here the token {first_patch(self.exported) - 1}, before the patches"
            self._note(
                f"the image feature of {library} is [CLS]; that of odis and of ONNX is {ours} (cosine of the "
                f"two here: {cosine:.4f})"
            )

    def _measured(self, name: str, found: list[Deviation]) -> None:
        self.parity[name] = found
        self._line(in_words(name, found))

    def _line(self, line: str) -> None:
        self.lines.append(line)
        self._say(line)

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self._say(line)
