#!/usr/bin/env bash
# Installs the wheel alone, without any extra, and runs every core command. Stops at the first that fails.
#
#   benchmarks/wheel.sh               a new environment in a temporary folder, removed at the end (some GB)
#   benchmarks/wheel.sh FOLDER        the environment in FOLDER/venv: made if it is missing, and kept
#   WHEEL=dist/odis-0.1.0-py3-none-any.whl benchmarks/wheel.sh   that wheel, instead of one built here
#   PYTHON=python3.13 benchmarks/wheel.sh                        under another Python
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
if [ $# -gt 0 ]; then
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
case "$folder/" in
"$repository"/*) echo "wheel.sh: $folder is inside the repository; name a folder outside it" >&2 && exit 1 ;;
esac

run() {
    echo "+ $*" >&2
    "$@"
}

# Reads an option from nowhere but the command line, and a module from nowhere but the environment.
unset PYTHONPATH PYTHONHOME
rm -rf "$folder/dist" "$folder/try"
mkdir -p "$folder/dist" "$folder/try"
if [ -n "${WHEEL:-}" ]; then
    cp "$WHEEL" "$folder/dist/"
else
    run "$python" -m pip wheel -q --no-deps -w "$folder/dist" "$repository"
fi
wheel=("$folder"/dist/odis-*.whl)
[ -x "$folder/venv/bin/python" ] || run "$python" -m venv "$folder/venv"
bin=$folder/venv/bin
run "$bin/python" -m pip install -q "${wheel[0]}"
run "$bin/python" -m pip install -q --no-deps --force-reinstall "${wheel[0]}"
run "$bin/python" -m pip check
cd "$folder/try"
"$bin/python" - <<'END'
import importlib.util
import sys
import odis

assert odis.__file__.startswith(sys.prefix), odis.__file__
extras = ["duckdb", "hypothesis", "lightly", "pytest", "ray", "tensorboard", "torchmetrics", "transformers"]
there = [name for name in extras if importlib.util.find_spec(name)]
assert not there, f"{there} came with odis, or were in the environment before"
END

odis() { run "$bin/odis" "$@"; }

odis --version
run "$bin/python" -m odis --help
for command in pretrain index objects inspect embed evaluate benchmark report scenes demo; do
    run "$bin/odis" $command --help >/dev/null
done

# Data: scenes with masks and labels; the same in the layout of COCO; class folders of images.
odis scenes --out scenes --split train --count 24
odis scenes --out scenes --split val --count 12 --seed 1
odis index stats scenes/train.parquet
odis index filter scenes/train.parquet --min-size 8 --with-objects --out filtered.parquet
odis index sample scenes/train.parquet --images 8 --out sampled.parquet
odis index merge scenes/train.parquet scenes/val.parquet --out merged.parquet
odis index perturb scenes/train.parquet --jitter 0.05 --out perturbed.parquet
mkdir -p coco/annotations coco/train
cp -r scenes/train coco/train/
odis index export scenes/train.parquet --out coco/annotations/instances_train.json
odis index coco coco --split train --strict --out coco.parquet
for split in train val; do
    mkdir -p classes/$split/even classes/$split/odd
    cp scenes/$split/*[02468].png classes/$split/even/
    cp scenes/$split/*[13579].png classes/$split/odd/
    odis index folder classes --split $split --out classes-$split.parquet
done
odis objects compare perturbed.parquet scenes/train.parquet --out compare.json
odis inspect scenes/train.parquet --recipe debug --images 2 --out inspect.png

# A run, and the second half of it again from its checkpoint: the same loss.
odis pretrain --recipe debug --data coco.parquet --val scenes/val.parquet --out run
cp run/metrics.jsonl whole.jsonl
rm run/model.safetensors run/checkpoints/step-00000010.pt
odis pretrain --recipe debug --data coco.parquet --val scenes/val.parquet --out run
"$bin/python" - <<'END'
import json

def losses(path):
    with open(path) as file:
        return {r["step"]: r["loss"] for r in map(json.loads, file) if "loss" in r}

whole, resumed = losses("whole.jsonl"), losses("run/metrics.jsonl")
assert list(resumed) == list(range(1, 11)), resumed
assert resumed == whole, (resumed, whole)
print("resumed: the losses are the same")
END
odis pretrain --recipe debug --data classes/train --out run-of-folder --train.steps 2

# What was learned.
odis embed scenes/val.parquet --model run --out features --workers 1
odis embed classes/val --model run/model.safetensors --images --out image-features --workers 1
labelled=(--train scenes/train.parquet --test scenes/val.parquet --workers 1)
odis evaluate knn --model run "${labelled[@]}" --out run/knn.json
odis evaluate linear --model run "${labelled[@]}" --steps 20 --out linear.json
odis evaluate dense-knn --model run "${labelled[@]}" --out dense-knn.json
odis evaluate segment --model run "${labelled[@]}" --steps 20 --out segment.json
odis evaluate retrieval --model run --test scenes/val.parquet --workers 1 --out retrieval.json
odis evaluate transfer --model run --train classes-train.parquet --test classes-val.parquet --images \
    --workers 1 --out transfer.json
odis objects discover scenes/val --with run --out discovered.parquet
odis objects compare discovered.parquet scenes/val.parquet
odis report run run-of-folder --out report.html --images 2
odis benchmark --recipe debug --data scenes/train.parquet --seconds 5 --out benchmark.json
"$bin/python" - <<'END'
from PIL import Image
import odis

objects = [odis.Object(box=(8, 8, 40, 40)), odis.Object(box=(20, 30, 90, 90))]
with Image.open("scenes/val/000000.png") as picture:
    features = odis.load("run").embed(picture, objects).objects
assert features.shape[0] == 2, features.shape
print("odis.load(run).embed(picture, objects):", tuple(features.shape))
END

# A detector of torchvision, with weights of its own.
"$bin/python" - <<'END'
import torch
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

torch.manual_seed(0)
detector = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)
torch.save(detector.state_dict(), "detector.pt")
END
printf 'even\nodd\n' >names.txt
odis objects detect scenes/val --with torchvision:fasterrcnn_mobilenet_v3_large_320_fpn@detector.pt \
    --classes names.txt --min-score 0 --max-objects 3 --out detected.parquet

# What needs an extra says so in one line.
if "$bin/odis" objects detect scenes/val --with transformers:nowhere --prompt "a digit" --out asked.parquet \
    2>message; then
    echo "wheel.sh: a detector of transformers ran without transformers" >&2 && exit 1
fi
cat message
grep -q "pip install 'odis\[detect\]'" message && [ "$(wc -l <message)" = 1 ]

odis demo --out demo
for file in report.html inspect.png benchmark.json demo/demo.png demo/results.json demo/run/model.safetensors
do
    [ -s "$file" ] || { echo "wheel.sh: $file was not written" >&2 && exit 1; }
done
echo "wheel.sh: $(basename "${wheel[0]}") runs alone under $("$bin/python" --version)"
