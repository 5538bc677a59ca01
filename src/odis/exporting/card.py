"""The model card of a hub folder: what the run, its results and this export hold, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from odis import __version__
from odis.config.pixels import RGB
from odis.config.wording import counted
from odis.errors import DataError, OdisError
from odis.exporting.network import Exported
from odis.report.results import ResultGroup, ResultRow, StoredScore, find_results, settings_in_words
from odis.train.run_folder import read_config

_PATHS = ("data", "val", "root")  # settings that name files of one machine


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known of a run beside its model.

    Args:
        config: Its `config.yaml`; empty where only a model file was given.
        groups: Results of this very model, each with what its file says of them.
        left_out: Result rows of other models or other steps.
    """

    config: dict[str, Any]
    groups: list[tuple[ResultGroup, list[str]]]
    left_out: int


def read_record(source: str | Path, card: dict[str, Any], results: Sequence[str]) -> RunRecord:
    """What lies beside a model: its run's config, and results of the same step.

    Args:
        source: What was exported: a run's folder, or a file of it.
        card: Metadata of the model.
        results: Further results files.

    Raises:
        DataError: A results file that was named cannot be used, or has no row of this model.
    """
    run = _run_folder(Path(source))
    config = read_config(run) if run is not None else {}
    found, skipped = find_results([] if run is None else [run], map(Path, results))
    named = {os.path.realpath(path) for path in results}
    for one in skipped:
        if os.path.realpath(one.what) in named:
            raise DataError(f"{one.what}: {one.why}")
    groups, left_out = [], 0
    used: set[str] = set()
    for group in found:
        own = [row for row in group.rows if _is_of(row, card, Path(source), run)]
        left_out += sum(not row.bound for row in group.rows) - len(own)
        used |= {os.path.realpath(row.file) for row in own}
        if own:
            of_model = replace(group, rows=own, left_out=[])
            groups.append((of_model, _notes({row.file for row in own})))
    for path in results:
        if os.path.realpath(path) not in used:
            raise DataError(f"{path}: has no scores of {source} at step {card.get('step')}")
    return RunRecord(config, groups, left_out)


def _notes(files: set[str]) -> list[str]:
    """What results files say of their scores, as that two parts share images."""
    found = [json.loads(Path(file).read_text(encoding="utf-8")).get("notes") or [] for file in sorted(files)]
    return list(dict.fromkeys(str(note) for notes in found for note in notes))


def _run_folder(source: Path) -> Path | None:
    folders = (source, source.parent, source.parent.parent) if source.is_file() else (source,)
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def _is_of(row: ResultRow, card: dict[str, Any], source: Path, run: Path | None) -> bool:
    """Whether a row is of this model: the same run, file or checkpoint, at the same step.

    A relative path was of the folder that the evaluation ran in, which nobody recorded: one that ends as the
    run's own path does is taken for it where the results lie in the run.
    """
    if row.bound or row.step != card.get("step") or row.recipe != (card.get("recipe") or ""):
        return False
    places = {os.path.realpath(source)}
    if run is not None:
        places |= {os.path.realpath(run), os.path.realpath(run / "model.safetensors")}
    if os.path.realpath(row.model) in places:
        return True
    if run is None or os.path.isabs(row.model) or run.resolve() not in Path(row.file).resolve().parents:
        return False
    ending = os.sep + os.path.normpath(row.model)
    return any(place.endswith(ending) for place in places)


def model_card(
    name: str, exported: Exported, record: RunRecord, parity: Sequence[str], notes: Sequence[str],
    native: str | None, objects: str, license: str,
) -> str:  # fmt: skip
    """The text of `README.md`.

    Args:
        name: Of the model.
        exported: It.
        record: What is known of its run.
        parity: Lines that say how far the exports are from odis.
        notes: Lines that say what an export does not hold.
        native: transformers' class of the folder `transformers`, or None if there is none.
        objects: How `onnx/model.onnx` is given objects.
        license: As the hub writes it; empty if none was stated.
    """
    parts = [
        _front(exported, native, license),
        f"# {name}\n",
        _about(exported),
        _data(exported, record),
        _scores(record),
        _use(exported, native, objects),
        "## Is it the same model?\n\nMeasured when this folder was written, on pictures made for it:\n\n"
        + "\n".join(f"- {line}" for line in [*parity, *notes])
        + "\n",
        _settings(record),
        _license(exported, license),
    ]
    return "\n".join(part for part in parts if part)


def _front(exported: Exported, native: str | None, license: str) -> str:
    front: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["odis", "timm", "onnx", "self-supervised-learning", "vision-transformer"]
        + (["transformers"] if native else []),
    }
    if license:
        front["license"] = license
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n"


_TOKENS = {
    "single": "`[CLS]` becomes `[OBJ]`, one object a pass",
    "read-only": "`[OBJ]` tokens beside `[CLS]`, any number a pass, which no other token sees",
    "beside": "`[OBJ]` beside `[CLS]`, one object a pass",
}


def _about(exported: Exported) -> str:
    network: Any = exported.network
    model, card = exported.card["model"], exported.card
    read = (
        "the mean of its patches"
        if exported.pooled
        else f"`{model['object_tokens']}` object tokens: {_TOKENS[model['object_tokens']]}"
    )
    million = sum(value.numel() for value in network.parameters()) / 1e6
    recipe = f"recipe `{card['recipe']}`" if card.get("recipe") else "no named recipe"
    lines = [
        f"A Vision Transformer pretrained by odis {card['odis_version']} (object-level self-distillation, "
        f"[arXiv 2506.05409](https://arxiv.org/abs/2506.05409)), {recipe}, {counted(card['step'], 'step')}.",
        "",
        f"- architecture: `{model['name']}`, patches of {exported.encoder.patch_size} pixels, width "
        f"{network.embed_dim}, {counted(len(network.blocks), 'block')}, {million:.1f} M parameters",
        f"- trained at {exported.encoder.image_size} x {exported.encoder.image_size} pixels",
        f"- an object is read by {read}",
        *_channels(exported),
        f"- pixels: 0 to 1, less {_numbers(exported.encoder.mean)}, over {_numbers(exported.encoder.std)}",
    ]
    return "\n".join(lines) + "\n"


def _channels(exported: Exported) -> list[str]:
    """What images are read, where they are not 8-bit RGB."""
    form = exported.encoder.pixels
    if form == RGB:
        return []
    ranges = (
        ""
        if form.ranges is None
        else ", whose numbers from {} are 0 to 1".format(
            ", ".join(f"{low:g} to {high:g}" for low, high in form.ranges)
        )
    )
    return [f"- images of {counted(form.channels, 'channel')}{ranges}"]


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _data(exported: Exported, record: RunRecord) -> str:
    lines = ["## Data", "", f"- objects: {exported.encoder.provenance or 'not recorded'}"]
    config, resolved = record.config.get("config") or {}, record.config.get("resolved") or {}
    if data := config.get("data"):
        count = resolved.get("images")
        images = f", {counted(count, 'image')}" if isinstance(count, int) else ""
        lines.append(f"- trained on `{Path(str(data)).name}`{images}")
    else:
        lines.append("- the data set is not recorded: only the model's file was exported")
    if start := exported.card.get("start_weights"):
        file = "" if start["source"] == "timm" else f", from the file `{start['source']}`"
        lines.append(f"- started from the weights `{start['tag']}`{file}")
    elif "start_weights" in exported.card:
        lines.append("- started from random weights")
    return "\n".join(lines) + "\n"


def _scores(record: RunRecord) -> str:
    lines = ["## Scores", ""]
    if not record.groups:
        return "\n".join([*lines, "None were measured when this card was written.", ""])
    for group, notes in record.groups:
        sides = "; ".join(f"{name}: {_side(side)}" for name, side in group.sides.items())
        settings = settings_in_words({k: v for k, v in group.settings.items() if k != "modes"})
        lines += [f"`{group.evaluation}`, in {group.unit}. {sides}. {settings}.", ""]
        lines += ["| mode | size | score | value | 95 % interval |", "| --- | --- | --- | --- | --- |"]
        for row in group.rows:
            for name, score in row.scores.items():
                lines.append(f"| {row.mode} | {row.size} | {name} | {_value(score)} | {_interval(score)} |")
        lines += ["", *(f"*{note}*\n" for note in notes)]
    lines.append("Bootstrap intervals over test images; they say nothing of other training runs.")
    return "\n".join(lines) + "\n"


def _side(side: dict[str, Any]) -> str:
    counts = [f"{side[key]:,} {key}" for key in ("objects", "images") if isinstance(side.get(key), int)]
    return f"`{Path(str(side.get('index', ''))).name}` ({', '.join(counts)})"


def _value(score: StoredScore) -> str:
    return "-" if score.value is None else f"{score.value:.2f}"


def _interval(score: StoredScore) -> str:
    return "-" if score.low is None or score.high is None else f"{score.low:.1f} - {score.high:.1f}"


def _use(exported: Exported, native: str | None, objects: str) -> str:
    patch, side = exported.encoder.patch_size, exported.size
    text = """## How to use it

`OWNER/NAME` is where this folder lies on the hub.

timm, without odis:

```python
import timm

model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True, num_classes=0).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
```
"""
    if native is not None:
        text += f"""
transformers, without odis (`{native}`):

```python
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("OWNER/NAME")
model = AutoModel.from_pretrained("OWNER/NAME", subfolder="transformers").eval()
```
"""
    axis = f"(1, Q, {side // patch}, {side // patch})" if objects == "masks" else "(1, Q, 4)"
    second = (
        f'"object_masks": numpy.ones((1, 1, {side // patch}, {side // patch}), bool)'
        if objects == "masks"
        else f'"boxes": numpy.array([[[0, 0, {side}, {side}]]], numpy.float32)'
    )
    return (
        text
        + f"""
ONNX Runtime, with objects {axis}; `onnx/usage.py` prepares a photograph:

```python
import numpy
import onnxruntime
from huggingface_hub import hf_hub_download

session = onnxruntime.InferenceSession(hf_hub_download("OWNER/NAME", "onnx/model.onnx"))
given = {{"pixel_values": numpy.zeros((1, 3, {side}, {side}), numpy.float32), {second}}}
objects, image, patches = session.run(["objects", "image", "patches"], given)
```

odis, with boxes or masks of objects:

```python
import odis
from huggingface_hub import hf_hub_download

model = odis.load(hf_hub_download("OWNER/NAME", "odis/model.safetensors"))
features = model.embed("photo.jpg", boxes=[[10, 20, 200, 220]])
```
"""
    )


def _settings(record: RunRecord) -> str:
    config = record.config.get("config")
    if not config:
        return ""
    kept = {key: value for key, value in config.items() if key not in _PATHS}
    for section, key in (("model", "weights"),):
        value = (kept.get(section) or {}).get(key)
        if value and value != "timm":
            kept[section] = kept[section] | {key: Path(str(value)).name}
    if (loader := kept.pop("loader", None)) is not None:
        kept["loader"] = {key: value for key, value in loader.items() if key != "keep"}
    text = yaml.safe_dump(kept, sort_keys=False, default_flow_style=None, width=100)
    return f"## Settings\n\n```yaml\n{text}```\n"


def _license(exported: Exported, license: str) -> str:
    lines = ["## Licence", ""]
    stated = f"Weights: {license}." if license else "No licence was stated for these weights."
    lines.append(f"{stated} odis itself is Apache-2.0.")
    if start := exported.card.get("start_weights"):
        lines.append(f"Training started from `{start['tag']}`, whose licence is: {start['license']}.")
    lines += ["", f"*Written by odis {__version__}.*"]
    return "\n".join(lines) + "\n"


def check_license(license: str) -> None:
    """Refuse what the hub's front matter cannot hold.

    Raises:
        OdisError: It is more than a word.
    """
    if license and not license.replace("-", "").replace(".", "").isalnum():
        raise OdisError(f"license {license!r}: must be an identifier as hubs write it, such as apache-2.0")
