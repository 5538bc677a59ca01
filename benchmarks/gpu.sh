#!/usr/bin/env bash
# What a GPU computes and how fast, in at most 8 minutes: kernels and the whole step against the reference,
# then the step, its object tokens, embedding, and input together with the step.
#
#   benchmarks/gpu.sh [OUT]                    # OUT: a folder for logs and figures (default: gpu-results)
#   DATA=index.parquet benchmarks/gpu.sh       # input of your images, not of scenes that are made for it
#   TINY=1 DEVICE=cpu benchmarks/gpu.sh        # small and on any machine, to see that the script runs
#   PARTS="agree step-bf16" benchmarks/gpu.sh  # these only
#   PARTS=photographs PHOTOGRAPHS=tiny-imagenet-100 benchmarks/gpu.sh
#
# `photographs` trains iBOT and read-only tokens for all objects on Tiny-ImageNet at 64 px (ViT-S, patches of 8), on
# 30,000 images each, then on 100,000, then on 300,000, as far as the time lasts, and measures what was trained. It is
# made where PHOTOGRAPHS names the folder, on the GPU if there is one, and ends when its time is up: what is measured by
# then is in OUT/photographs.md and OUT/evidence-results. A call with the same OUT goes on.
#
# PYTHON names the interpreter (default: python), MINUTES the limit. Every other part prints its table and writes
# OUT/PART.log and OUT/PART.json. The exit status is 1 if a part failed or was left out for want of time.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-gpu-results}
python=${PYTHON:-python}
device=${DEVICE:-cuda}
limit=$((60 * ${MINUTES:-8}))
parts=${PARTS:-agree step-bf16 step-fp32 objects embed input-cpu input-device ${PHOTOGRAPHS:+photographs}}
data=${DATA:-$out/scenes.parquet}
mkdir -p "$out" || exit 1

if [ -n "${TINY:-}" ]; then
  small=(--tiny) large=(--batch 2 --rounds 1) full=(--batch 2 --rounds 1) checked=(--batch 2)
  embedded=(--images 2 --rounds 1) seconds=1 scenes=8 side=96
  world=scenes trained=(--images 24 --candidates near) cells=(ibot.30k) studies=(30k)
  settings=(--recipe debug --views.global_size 32 --views.local_size 16 --train.batch_size 2 --loader.workers 0)
else
  small=() large=(--batch 64 --steps 3 --rounds 5) full=(--batch 32 --steps 2 --rounds 3) checked=(--batch 8)
  embedded=(--rounds 5) seconds=30 scenes=512 side=480
  world=tiny-imagenet trained=(--photographs "${PHOTOGRAPHS:-}" --candidates far) studies=(30k 100k 300k)
  cells=("${studies[@]/#/ibot.}" "${studies[@]/#/odis-read-only-all.}")
  settings=(--recipe odis-vits16 --train.batch_size 64)
fi

bad=()
# part NAME SECONDS COMMAND...: one part in at most so many seconds, and in what is left
part() {
  local name=$1 most=$2
  shift 2
  case " $parts " in *" $name "*) ;; *) return ;; esac
  local left=$((limit - SECONDS))
  if [ "$left" -lt 15 ]; then
    echo "== $name: left out, the time is up"
    bad+=("$name")
    return
  fi
  echo "== $name"
  timeout -k 5 $((left < most ? left : most)) "$@" 2>&1 | tee "$out/$name.log"
  local status=${PIPESTATUS[0]}
  if [ "$status" -ne 0 ]; then
    echo "== $name: failed with status $status"
    bad+=("$name")
  fi
}

# input NAME RENDER: loader and step together, with views rendered by the workers or on the device
input() {
  part "$1" 100 "$python" -m odis benchmark --data "$data" --out "$out/$1.json" --seconds "$seconds" \
    --train.device "$device" --train.precision bf16 --loader.render "$2" "${settings[@]}"
}

{
  date -u +%FT%TZ
  "$python" -c 'import odis, platform, torch
print("odis", odis.__version__, "torch", torch.__version__, "python", platform.python_version())
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
  lscpu 2>/dev/null | sed -n 's/^Model name: */CPU: /p'
  git -C "$here" rev-parse HEAD 2>/dev/null
} | tee "$out/machine.txt"

step=("$python" "$here/step.py" --device "$device" "${small[@]}")
part agree 150 "$python" "$here/agree.py" --device "$device" "${small[@]}" "${checked[@]}" --json "$out/agree.json"
part step-bf16 150 "${step[@]}" "${large[@]}" --precision bf16 --only odis odis:reference ibot lightly \
  --json "$out/step-bf16.json"
part step-fp32 100 "${step[@]}" "${full[@]}" --precision fp32 --only odis odis:reference \
  --json "$out/step-fp32.json"
part objects 100 "${step[@]}" "${full[@]}" --precision bf16 --only objects-1 objects-8 --json "$out/objects.json"
part embed 60 "$python" "$here/embed.py" --device "$device" "${small[@]}" "${embedded[@]}" --json "$out/embed.json"

case "$parts" in *input*)
  if [ -z "${DATA:-}" ]; then
    "$python" -c 'import sys
from odis.objects.scenes.write import write_scenes
folder, count, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
digits = (side // 5, side // 3)
write_scenes(f"{folder}/scenes", f"{folder}/scenes.parquet", count=count, split="train", seed=0, size=side,
             digit_size=digits)' \
      "$out" "$scenes" "$side" || bad+=(scenes)
  fi
  ;;
esac
input input-cpu cpu
input input-device device

minutes=$(((limit - SECONDS) / 60))
part photographs "$limit" "$python" "$here/evidence/run.py" --world "$world" "${trained[@]}" --processes 1 \
  --study "${studies[@]}" --cells "${cells[@]}" \
  --minutes "$minutes" --work "$out/evidence" --results "$out/evidence-results"
case " $parts " in *" photographs "*)
  printf '<!-- made: %s -->\n<!-- end -->\n' "curves $world" "everything $world" >"$out/photographs.md"
  "$python" "$here/evidence/tables.py" --results "$out/evidence-results" --doc "$out/photographs.md" ||
    bad+=(photographs.md)
  sed '/^<!--/d' "$out/photographs.md"
  ;;
esac

echo "== $SECONDS seconds; figures in $out"
if [ ${#bad[@]} -gt 0 ]; then
  echo "== not done: ${bad[*]}"
  exit 1
fi
