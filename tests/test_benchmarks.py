"""Benchmarks run, print a table, and write the same figures as JSON."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import odis.kernels
from odis.evaluation.protocols.layouts.segmentation import open_segmented
from odis.kernels.choose import uses_reference
from odis.objects.scenes.write import write_scenes

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def module(name: str) -> ModuleType:
    """A benchmark as a module, in this process."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[made.__name__] = made  # where dataclasses look for it
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda p: p.name)
def test_every_benchmark_takes_json(script: Path):
    assert '"--json"' in script.read_text()


def test_memory_of_shards_is_that_of_the_weights_and_the_page_has_it(monkeypatch: pytest.MonkeyPatch):
    """Weights of timm's own model, AdamW's two moments, and a share of each."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    sharding = module("sharding")
    config = sharding.configure("ViT-L/16")
    sizes = sharding.count_weights(config)
    with torch.device("meta"):
        vit = timm.create_model("vit_large_patch16_224", num_classes=0)
    blocks = sum(p.numel() for p in vit.blocks.parameters())
    assert sizes.blocks == blocks
    assert sizes.block * 24 == blocks
    head = 1024 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256 + 256 * config.head.prototypes
    own = (
        1024 * {"single": 1, "read-only": 2, "beside": 3}[config.model.object_tokens]
    )  # mask, object, position
    assert sizes.student == sum(p.numel() for p in vit.parameters()) + head + own
    rows = [sharding.memory(sizes, sharding.Kept(0, 0, 0), 32, gpus) for gpus in (2, 8)]
    for row in rows:
        assert row.weights * 2**30 == pytest.approx(4 * sizes.student / row.gpus)
        assert row.optimizer == pytest.approx(2 * row.weights)
    page = (BENCHMARKS.parent / "docs" / "distributed.md").read_text()
    assert f"| 8 | {rows[1].weights:.2f} | {rows[1].gradients:.2f} | {rows[1].optimizer:.2f} |" in page


def test_step_times_variants_on_the_same_work(tmp_path: Path):
    """The three that it compares, the reference, a kernel less, and the code of another checkout."""
    file = tmp_path / "step.json"
    variants = ["odis", "ibot", "lightly", "odis:reference", "odis:without-mlp", "odis:before"]
    arguments = [str(BENCHMARKS / "step.py"), "--tiny", "--batch", "2", "--rounds", "2", "--json", str(file)]
    arguments += ["--only", *variants, "--against", str(BENCHMARKS.parent)]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    rates = figures["rounds_images_per_second"]
    assert list(rates) == variants
    assert all(len(r) == 2 and min(r) > 0 for r in rates.values())
    for row in figures["variants"]:
        assert row["slowest"] <= row["images_per_second"] <= row["fastest"]
        assert row["peak_mib"] > 100
        same = row["step"].partition(":")[0]
        for name, other in (("to_own_ibot", "ibot"), ("to_lightly", "lightly"), ("to_same", same)):
            if row["step"] == other:
                assert row[name] is None
                continue
            paired = [a / b for a, b in zip(rates[row["step"]], rates[other], strict=True)]
            median, low, high = row[name]
            assert median == pytest.approx(sum(paired) / 2)  # the median of two
            assert min(paired) <= low <= median <= high <= max(paired)
    assert "images/s" in done.stdout


@pytest.mark.parametrize(
    ("variants", "columns"),
    [
        (["odis", "ibot", "lightly"], {"to own iBOT": "2.000", "to lightly": "4.000"}),
        (["objects-8:reference", "objects-8"], {"to the same, plain": "0.500"}),
    ],
)
def test_step_has_a_column_for_what_others_are_compared_with(variants, columns, monkeypatch, capsys):
    """Rates are made up."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    step = module("step")
    made = {"odis": 8.0, "ibot": 4.0, "lightly": 2.0, "objects-8": 8.0, "objects-8:reference": 4.0}
    rates = {name: [made[name]] * 2 for name in variants}
    monkeypatch.setattr(step, "peak_mib_in_own_process", lambda variant, args: 321.0)
    monkeypatch.setattr(step, "measure", lambda args, device: (rates, [5.0, 5.0]))
    monkeypatch.setattr("sys.argv", ["step.py", "--tiny", "--batch", "2", "--only", *variants])
    step.main()
    header, *rows = [line for line in capsys.readouterr().out.splitlines() if "│" in line or "┃" in line]
    for column in ("to own iBOT", "to lightly", "to the same, plain"):
        assert (column in header) == (column in columns)
    first = next(line for line in rows if f"│ {variants[0]} " in line)
    assert all(f"{ratio} ({ratio} - {ratio})" in first for ratio in columns.values())
    assert "321 MiB" in first


@pytest.mark.parametrize(
    "wrong", [["--only", "odis:without-magic"], ["--only", "lightly:reference"], ["--only", "odis:before"]]
)
def test_step_refuses_what_it_does_not_know(wrong: list[str], monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr("sys.argv", ["step.py", "--tiny", *wrong])
    with pytest.raises(SystemExit) as ended:
        module("step").main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert wrong[1] in said or "--against" in said


def test_embed_compares_many_objects_with_one(tmp_path: Path):
    file = tmp_path / "embed.json"
    arguments = ["--tiny", "--images", "2", "--rounds", "3", "--objects", "1", "5", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "embed.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert [row["objects"] for row in figures["rows"]] == [1, 5]
    assert figures["rows"][0]["ratio"] == 1
    assert all(len(seconds) == 3 for seconds in figures["seconds"].values())
    assert figures["relative_difference"] < 1e-5, "five objects at once are five single calls"
    assert f"{figures['rows'][1]['ratio']:.3f}" in done.stdout


def test_neighbours_measures_memory_in_a_process_of_its_own_and_speed_in_turns(tmp_path: Path):
    file = tmp_path / "neighbours.json"
    arguments = [
        "--train",
        "300",
        "900",
        "--queries",
        "50",
        "--width",
        "16",
        "--k",
        "5",
        "--chunk",
        "200",
        "--chunks",
        "3",
    ]
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "neighbours.py"),
            *arguments,
            "--speed-queries",
            "64",
            "--json",
            str(file),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert [m["train"] for m in figures["memory"]] == [300, 900]
    assert all(m["peak_mib"] >= m["base_mib"] > 50 for m in figures["memory"])
    assert all(s["ratio"] == pytest.approx(s["plain"] / s["odis"]) for s in figures["speed"])
    assert f"{figures['memory'][0]['peak_mib']:,.0f} MiB" in done.stdout


def test_input_compares_all_views_with_the_published_pipeline(tmp_path: Path):
    write_scenes(tmp_path / "scenes", tmp_path / "scenes.parquet", count=4, split="val", seed=0)
    file = tmp_path / "input.json"
    arguments = [str(tmp_path / "scenes.parquet"), "--images", "3", "--rounds", "2", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "input.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    times = figures["milliseconds"]
    assert figures["images"] == 3
    assert all(len(rounds) == 2 for rounds in times.values())
    # A processor's clock may tick every 10 ms: a part may have none, and each tick is of one part at most.
    assert min(sum(times[pipeline]) for pipeline in ("odis", "ibot", "pil")) > 0
    parts = ("decoding", "objects", "crops", "resizing", "photometrics")
    assert all(sum(times[part][k] for part in parts) < times["odis"][k] + 1e-6 for k in range(2))
    value, low, high = figures["pil_over_odis"]
    assert low <= value <= high
    assert f"{value:.2f} ({low:.2f} - {high:.2f})" in done.stdout


def test_index_counts_every_image(tmp_path: Path):
    file = tmp_path / "index.json"
    arguments = [
        "--images",
        "300",
        "--boxes",
        "2",
        "--no-twice",
        "--headers",
        "20",
        "--folder",
        str(tmp_path),
        "--json",
        str(file),
    ]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "index.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert [(row["images"], row["opened"]) for row in rows] == [(300, False), (30, False), *[(20, True)] * 3]
    assert [row["what"].split(",")[0] for row in rows] == ["coco", "coco", "coco", "open-images", "imagenet"]
    assert "50% with a mask" in rows[1]["what"]
    assert all(row["cpu_seconds"] > 0 for row in rows)


def test_discover_compares_networks_and_a_box_in_the_middle(tmp_path: Path):
    file = tmp_path / "discover.json"
    arguments = [
        "--train",
        "64",
        "--test",
        "6",
        "--seeds",
        "0",
        "--out",
        str(tmp_path / "out"),
        "--json",
        str(file),
    ]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "discover.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("untrained", "trained", "seeds", "spectral"))
    assert json.loads(file.read_text())


@pytest.mark.parametrize(("factor", "wrong"), [(1.0, False), (1.0001, True)])
def test_agree_finds_a_kernel_that_is_wrong_by_a_ten_thousandth(monkeypatch, factor: float, wrong: bool):
    mlp = odis.kernels.mlp
    monkeypatch.setattr(odis.kernels, "mlp", lambda m, x: mlp(m, x) * (1.0 if uses_reference() else factor))
    args = argparse.Namespace(batch=2, tiny=True)
    assert (module("agree").compare("read-only", "fp32", args, torch.device("cpu")).share > 1) == wrong


def run_gpu_script(out: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """The script for GPUs, small, with one of its parts; the others are benchmarks that have tests."""
    environment = os.environ | {"TINY": "1", "PARTS": "agree", "PYTHON": sys.executable} | settings
    command = ["bash", str(BENCHMARKS / "gpu.sh"), str(out)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_script_for_gpus_runs_on_any_machine(tmp_path: Path):
    done = run_gpu_script(tmp_path / "out", DEVICE="cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "out" / "agree.json").read_text())
    assert figures["wrong"] == []
    cases = {(step["case"], step["precision"]) for step in figures["steps"]}
    assert cases >= {("odis", "fp32"), ("ibot", "bf16"), ("read-only", "fp32")}
    assert all(0 <= step["share"] <= 1 for step in figures["steps"])
    assert figures["views"]["mean"] < 0.03
    assert "odis" in (tmp_path / "out" / "machine.txt").read_text()
    assert "Kernels against the reference" in (tmp_path / "out" / "agree.log").read_text()


@pytest.mark.parametrize("tiny", ["1", ""])
def test_the_script_for_gpus_asks_for_runs_that_there_are(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
):
    """Its words, kept by what stands for Python here, are taken by the script that they are for."""
    python, kept = tmp_path / "python", tmp_path / "kept.txt"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{kept}\n')
    python.chmod(0o755)
    folder = tmp_path / "tiny-imagenet-100"
    done = run_gpu_script(
        tmp_path / "out", TINY=tiny, PARTS="photographs", PYTHON=str(python), PHOTOGRAPHS=str(folder)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(BENCHMARKS / "evidence")
    (words,) = (line.split() for line in kept.read_text().splitlines() if "run.py" in line)
    runner = module("evidence/run")
    jobs: list[str] = []

    def work_through(given, *rest):
        jobs.extend(job.name for job in given)
        return [], 0

    monkeypatch.setattr(runner, "work_through", work_through)
    if not tiny:
        (folder / "train").mkdir(parents=True)
        world = runner.worlds(runner.Roots(photographs=folder))["tiny-imagenet"]
        monkeypatch.setattr(type(world), "training_index", lambda *_: None)
        monkeypatch.setattr(type(world), "index", lambda *_: None)
        monkeypatch.setattr(type(world), "boxes", lambda *_: None)
    monkeypatch.setattr("sys.argv", words)
    runner.main()
    lengths = ("30k",) if tiny else ("30k", "100k", "300k")
    methods = ("ibot",) if tiny else ("ibot", "odis-read-only-all")
    assert jobs == [f"{method}.{length}-seed0" for length in lengths for method in methods]


def test_the_script_for_gpus_fails_if_a_part_does_or_the_time_is_up(tmp_path: Path):
    done = run_gpu_script(tmp_path / "out", DEVICE="cuda:4000")
    assert (done.returncode, "not done: agree" in done.stdout) == (1, True)
    done = run_gpu_script(tmp_path / "out", DEVICE="cpu", MINUTES="0")
    assert (done.returncode, "agree: left out, the time is up" in done.stdout) == (1, True)


def test_compare_says_how_long_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    for split, count in (("train", 12), ("val", 8)):
        write_scenes(tmp_path / split, tmp_path / f"{split}.parquet", count=count, split=split, seed=0)
    script = module("compare")
    threads = torch.get_num_threads()
    arguments = ["--train", str(tmp_path / "train.parquet"), "--test", str(tmp_path / "val.parquet")]
    arguments += ["--images", "16", "--threads", str(threads), "--tiny", "--json", str(tmp_path / "c.json")]
    monkeypatch.setattr("sys.argv", ["compare.py", *arguments])
    script.main()
    figures = json.loads((tmp_path / "c.json").read_text())
    assert figures["images"] == 16
    assert figures["processor_seconds"] > 0
    assert "object k-NN" in figures["measures"]
    assert "16 images" in capsys.readouterr().out


def test_remote_times_every_place_on_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_scenes(tmp_path / "train", tmp_path / "train.parquet", count=6, split="train", seed=0)
    script = module("remote")
    monkeypatch.setattr(script, "LEAST", 2)
    monkeypatch.setattr(script, "BATCH", 2)
    file = tmp_path / "r.json"
    arguments = ["--images", "6", "--rounds", "1", "--workers", "0", "--latency", "1", "--json", str(file)]
    monkeypatch.setattr("sys.argv", ["remote.py", str(tmp_path / "train.parquet"), *arguments])
    script.main()
    figures = json.loads(file.read_text())
    places = ("files", "shards", "Parquet", "Parquet, Snappy")
    measured = {f"{what}, {p}" for p in places for what in ("bytes", "decoded")}
    assert figures["milliseconds"].keys() == measured | {"request, ahead", "request, one by one"}
    assert figures["rates"].keys() == {"one by one", "ahead", "files, 0", "server, 0"}
    assert all(
        len(of) == 1 and min(of) > 0 for kind in ("milliseconds", "rates") for of in figures[kind].values()
    )
    assert "6 photographs" in capsys.readouterr().out


def test_downstream_makes_one_class_of_vocs_masks(tmp_path: Path):
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    classes = np.array([[0, 1], [20, 255]], dtype=np.uint8)
    for name, split in (("a", "train"), ("b", "val")):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(classes).save(root / "SegmentationClass" / f"{name}.png")
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text(f"{name}\n")
    script = module("downstream")
    for _ in range(2):  # a second call goes on with what the first one made
        parts = script.voc_maps(root, tmp_path / "work")
    for name, split in (("a", "train"), ("b", "val")):
        found = open_segmented(parts["train"], split, part="train")
        assert found.published_classes == ["background", "object"]
        made = np.asarray(Image.open(parts["train"] / "labels" / split / f"{name}.png"))
        assert made.tolist() == [[0, 1], [1, 255]]
        assert (parts["train"] / "images" / split / f"{name}.jpg").is_file()
