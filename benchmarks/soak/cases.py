"""The commands that are killed, on a small world: what each is given, and what must be equal in what it
wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from odis.objects.build import build_index
from odis.train.checkpoint import checkpoints, load_checkpoint

_TIMES = {"images_per_second", "data_wait", "seconds_left", "memory_gib"}
_TINY = {
    "views.global_size": 32, "views.local_size": 16, "views.local_views": 1, "model.embed_dim": 32,
    "model.depth": 1, "model.num_heads": 2, "model.drop_path": 0.2, "head.prototypes": 24, "head.hidden": 20,
    "head.bottleneck": 12, "train.batch_size": 4, "train.device": "cpu", "train.threads": 1,
    "train.steps": 16, "train.checkpoint_every": 3, "train.knn_every": 6, "train.log_every": 7,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command: `words(world, out)`, with all that it writes in the folder `out`."""

    words: Callable[[Path, Path], list[str]]
    content: Callable[[Path], dict[str, Any]]
    ranks: int = 1
    elastic: bool = False  # kills take one rank, and torchrun's agent starts all again


def make_world(world: Path) -> None:
    """Sixteen images of two classes in COCO's layout, their index, and a trained model."""
    rng = np.random.default_rng(0)
    (world / "data/val").mkdir(parents=True)
    images, objects = [], []
    for k in range(16):
        pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 40)).save(world / f"data/val/{k:02d}.png")
        images.append({"id": k, "file_name": f"{k:02d}.png", "width": 48, "height": 40})
        for j in range(2):
            box = [4 + 14 * j, 5, 20, 24]
            objects.append({"id": 2 * k + j, "image_id": k, "category_id": 1 + (k + j) % 2, "bbox": box})
    objects.append({"id": 99, "image_id": 3, "category_id": 1, "bbox": [50, 50, 1, 1]})  # is left out
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    (world / "data/annotations").mkdir()
    (world / "data/annotations/instances_val.json").write_text(json.dumps(content))
    build_index("coco", world / "data", world / "x.parquet", "val")


def model(world: Path) -> list[str]:
    """The command that trains the model of the world."""
    return _pretrain(world, world / "model", {"train.steps": 3, "train.knn_every": 0})


def _pretrain(world: Path, out: Path, settings: dict[str, Any] | None = None) -> list[str]:
    given = _TINY | {"loader.workers": 0} | (settings or {})
    words = ["pretrain", "--recipe", "debug", "--data", str(world / "x.parquet"), "--out", str(out)]
    words += ["--val", str(world / "x.parquet")] if given["train.knn_every"] else []
    return [*words, *[f"--{name}={value}" for name, value in given.items()]]


def run_content(out: Path) -> dict[str, Any]:
    """Of a run: weights, state and every line of its logs, without times."""
    state = load_checkpoint(checkpoints(out / "run/checkpoints")[-1])
    found: dict[str, Any] = {
        f"{part}/{name}": value.numpy().tobytes()
        for part in ("student", "teacher", "centers")
        for name, value in state[part].items()
    }
    found["step"] = state["step"]
    lines = [json.loads(line) for line in (out / "run/metrics.jsonl").read_text().splitlines()]
    found["lines"] = [{k: v for k, v in line.items() if k not in _TIMES} for line in lines]
    found["model"] = (out / "run/model.safetensors").read_bytes()
    return found | {"names": names(out)}


def names(out: Path) -> list[str]:
    """Every file, hidden ones too: what is left over shows."""
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*"))


def files(out: Path) -> dict[str, Any]:
    """The bytes of every file."""
    return {name: (out / name).read_bytes() for name in names(out) if (out / name).is_file()}


def scores(out: Path) -> dict[str, Any]:
    """Of a file of results: the scores."""
    results = json.loads((out / "r.json").read_text())
    rows = [{k: row[k] for k in ("mode", "scores")} for row in results["rows"]]
    return {"rows": rows, "complete": results["complete"], "names": names(out)}


def comparison(out: Path) -> dict[str, Any]:
    """Of fine-tunings: networks, answers, every line of their logs and the scores, without times."""
    found: dict[str, Any] = {"names": names(out)}
    for path in sorted((out / "c").rglob("*.safetensors")):
        found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    for path in sorted((out / "c").rglob("metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = [{k: v for k, v in line.items() if k not in _TIMES} for line in lines]
    results = json.loads((out / "c/results.json").read_text())
    return found | {"scores": [row["scores"] for row in results["rows"]], "complete": results["complete"]}


def page(out: Path) -> dict[str, Any]:
    """Of a page: that it is there, and whole."""
    return {"names": names(out), "end": (out / "page.html").read_text().rstrip()[-7:]}


def _loader(**settings: Any) -> Callable[[Path, Path], list[str]]:
    named = {f"loader.{name}": value for name, value in settings.items()}
    return lambda world, out: _pretrain(world, out / "run", named)


def _every_step(world: Path, out: Path) -> list[str]:
    return _pretrain(world, out / "run", {"train.log_every": 1})


def _disk(world: Path, out: Path) -> list[str]:
    return _pretrain(world, out / "run", {"loader.keep": f"[disk:{world / 'copies'}]", "loader.workers": 1})


def _words(text: str) -> Callable[[Path, Path], list[str]]:
    """A command with WORLD and OUT for the folders."""

    def words(world: Path, out: Path) -> list[str]:
        return [word.replace("WORLD", str(world)).replace("OUT", str(out)) for word in text.split()]

    return words


def _rediscover(world: Path, out: Path) -> list[str]:
    return _pretrain(world, out / "run", {"objects.rediscover_every": 2, "discover.max_objects": 1})


CASES: dict[str, Case] = {
    "pretrain": Case(_loader(), run_content),
    "pretrain-workers": Case(_loader(workers=2, prefetch=1), run_content),
    "pretrain-memory": Case(_loader(workers=1, keep="[memory]"), run_content),
    "pretrain-disk": Case(_disk, run_content),
    "pretrain-render-device": Case(_loader(workers=1, render="device"), run_content),
    "pretrain-device": Case(_loader(render="device", keep="[device:20MiB]"), run_content),
    "pretrain-two-ranks": Case(_loader(), run_content, ranks=2),
    "elastic": Case(_every_step, run_content, ranks=2, elastic=True),
    "pretrain-rediscover": Case(_rediscover, run_content),
    "index-coco": Case(_words("index coco WORLD/data --split val --out OUT/y.parquet"), files),
    "index-parts": Case(_words("index coco WORLD/data --split val --out OUT/y --part-size 3"), files),
    "index-filter": Case(_words("index filter WORLD/x.parquet --classes cat --out OUT/y.parquet"), files),
    "index-sample": Case(_words("index sample WORLD/x.parquet --images 5 --out OUT/y.parquet"), files),
    "index-perturb": Case(_words("index perturb WORLD/x.parquet --jitter 0.1 --out OUT/y.parquet"), files),
    "discover": Case(
        _words(
            "objects discover WORLD/x.parquet --with WORLD/model --part-size 3 --out OUT/y.parquet "
            "--device cpu"
        ),
        files,
    ),
    "embed": Case(
        _words(
            "embed WORLD/x.parquet --model WORLD/model --out OUT/f --part-images 3 --workers 0 --device cpu"
        ),
        files,
    ),
    "evaluate-knn": Case(
        _words(
            "evaluate knn --model WORLD/model --train WORLD/x.parquet --test WORLD/x.parquet --k 3 "
            "--workers 0 --device cpu --out OUT/r.json"
        ),
        scores,
    ),
    "finetune": Case(
        _words(
            "finetune detection --model random --model WORLD/model --train WORLD/x.parquet --test "
            "WORLD/x.parquet --size 32 --steps 8 --batch 2 --channels 8 --hidden 8 --scales 1 --anchor 2 "
            "--proposals 20 --regions 8 --checkpoint-every 2 --log-every 3 --resamples 3 --workers 0 "
            "--device cpu --out OUT/c"
        ),
        comparison,
    ),
    "report": Case(_words("report WORLD/model --out OUT/page.html"), page),
}
"""Every command that writes a run, an index, features, results, a comparison or a page."""
