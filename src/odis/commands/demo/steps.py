"""The demo: scenes with nothing to download, pretraining on them, the same evaluation before and after, one
picture.

Everything it does is what a user does with their own data: write an index, `pretrain` with a recipe,
`evaluate_knn`, `embed`.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from odis.backbones.build import build_pair
from odis.backbones.saved import save_model
from odis.config.options import load_recipe
from odis.config.query import QueryConfig, ReadConfig
from odis.config.training import PretrainConfig
from odis.evaluation.knn import KnnSettings, evaluate_knn
from odis.evaluation.results import write_results
from odis.inference import Encoder, load
from odis.method.vit import ObjectViT
from odis.objects.index import ObjectIndex
from odis.objects.scenes.write import write_scenes
from odis.pictures.demo import draw_demo
from odis.report.write import write_report
from odis.train.loop import pretrain
from odis.train.saved_state import card_of

TRAIN_SCENES, TEST_SCENES = 6000, 400
NEIGHBOUR_SCENES = 1000  # scenes of the training index whose objects vote
K = 20
CONTEXT = (
    1.6  # `[OBJ]` is asked in a window of 1.6 x its box, where objects are about as large as in training
)


def run_demo(out: Path, *, seed: int = 0, recipe: str = "demo") -> dict[str, Any]:
    """Make scenes, pretrain, evaluate the untrained and the trained network, draw; a second call resumes or
    redraws.

    Args:
        out: Folder for `scenes/`, `untrained/`, `run/`, `results.json`, `demo.png` and `report.html`.
        seed: Seed of scenes and training.
        recipe: Recipe of the pretraining, by name or path.

    Returns:
        What `results.json` holds: `untrained` and `trained` top-1 k-NN accuracies in percent by mode,
        `seconds` of pretraining, settings.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    console.print(
        "[bold]1[/] scenes: real handwritten digits in clutter; digits of the test scenes are in no "
        "training scene"
    )
    train, test = (
        _scenes(out / "scenes", split, count, seed)
        for split, count in (("train", TRAIN_SCENES), ("val", TEST_SCENES))
    )
    config = load_recipe(recipe, data=str(out / "scenes" / "train.parquet"), train__seed=seed)

    console.print("[bold]2[/] the untrained network, asked about every object of the test scenes")
    untrained = _untrained(config)
    before = _evaluated(untrained, train, test)

    console.print("[bold]3[/] pretraining: no label is read")
    pretrain(config, out / "run", recipe=Path(recipe).stem)
    _keep_untrained(out / "untrained" / "model.safetensors", untrained, config, train.provenance)
    seconds = _pretraining_seconds(out / "run", config.train.batch_size)

    console.print("[bold]4[/] the trained network, asked the same")
    trained = load(out / "run", device="cpu")
    after = _evaluated(trained, train, test)
    write_results(
        out / "run" / "knn.json", after | {"rows": [*before["rows"], *after["rows"]]}
    )  # for `odis report`
    results = {
        "untrained": _accuracies(before),
        "trained": _accuracies(after),
        "seconds": round(seconds, 1),
        "k": K,
        "seed": seed,
        "recipe": recipe,
        "train_scenes": len(train),
        "test_scenes": len(test),
        "provenance": test.provenance,
    }
    write_results(out / "results.json", results)
    draw_demo(out / "demo.png", trained, untrained, train, test, results, context=CONTEXT)
    console.print(_table(results))
    console.print(
        f"picture: {out / 'demo.png'}\nnumbers: {out / 'results.json'}\nmodel: "
        f"{out / 'run' / 'model.safetensors'}",
        markup=False,
    )
    page = out / "report.html"
    write_report(
        page, [out / "run"], data=str(out / "scenes" / "val.parquet"), query=QueryConfig(context=CONTEXT)
    )
    console.print(f"a page of the run: {page}", markup=False)
    networks, data = explored(out)
    asked = shlex.join(["odis", "explore", *networks, "--data", data, "--context", str(CONTEXT)])
    console.print(f"ask it with the mouse: {asked}", markup=False)
    return results


def explored(out: Path) -> tuple[list[str], str]:
    """What the explorer of a demo is given: the network before and after, and the held-out scenes."""
    return [str(out / "untrained"), str(out / "run")], str(out / "scenes" / "val.parquet")


def _scenes(folder: Path, split: str, count: int, seed: int) -> ObjectIndex:
    path = folder / f"{split}.parquet"
    if not path.exists():
        write_scenes(folder / split, path, count=count, split=split, seed=seed)
    return ObjectIndex.open(path)


def _untrained(config: PretrainConfig) -> Encoder:
    """The student as `pretrain` starts it, from the same seed."""
    torch.manual_seed(config.train.seed)
    student, _ = build_pair(config)
    return Encoder.of(student.backbone.eval(), config, source="untrained")


def _keep_untrained(path: Path, encoder: Encoder, config: PretrainConfig, provenance: str) -> None:
    """Write the network before training, for the explorer."""
    assert isinstance(encoder.model, ObjectViT)
    card = card_of(config, patch_size=encoder.patch_size, provenance=provenance, step=0, recipe="demo")
    save_model(path, encoder.model, card)


def _evaluated(encoder: Encoder, train: ObjectIndex, test: ObjectIndex) -> dict[str, Any]:
    settings = KnnSettings(
        query=QueryConfig(modes=("masked-attention", "crop"), context=CONTEXT),
        read=ReadConfig(workers=1),
        k=(K,),
        max_train=NEIGHBOUR_SCENES,
    )
    return evaluate_knn(encoder, train, test, settings)


def _accuracies(results: dict[str, Any]) -> dict[str, float]:
    return {row["mode"]: round(row["scores"][f"k={K}"]["value"], 1) for row in results["rows"]}


def _pretraining_seconds(run: Path, batch_size: int) -> float:
    """Seconds that the steps took, data included, by the run's own log: also of a run that an earlier call
    finished or began.
    """
    seconds, before = 0.0, 0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        if rate := values.get("images_per_second"):
            seconds += (values["step"] - before) * batch_size / rate
            before = values["step"]
    return seconds


def _table(results: dict[str, Any]) -> Table:
    table = Table(title=f"Objects of held-out scenes, {K}-NN accuracy in % (chance 10)")
    table.add_column("the network is asked by")
    for name in ("untrained", "trained", "gain"):
        table.add_column(name, justify="right")
    for mode, before in results["untrained"].items():
        after = results["trained"][mode]
        table.add_row(mode, f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}")
    return table
