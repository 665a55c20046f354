#!/usr/bin/env bash
# One talking person on a CPU, from a video with sound:
#   experiments/aniportrait/clip.sh talk.mp4
# Both stages and Audio2Mesh learn all but the clip's last second. That second is then drawn twice: from its landmarks,
# and from its sound; and once more from the sound of two seconds before, as a control. Results: runs/aniportrait/clip/.
set -euo pipefail

python=${PYTHON:-.venv/bin/python}
out=runs/aniportrait/clip
export OMP_NUM_THREADS=1 # as in the quick start

$python prepare.py source="$1" out=$out/data size=96
$python train.py experiment=aniportrait/clip_stage1 data.shards="$out/data/shards/train-*.tar"
$python train.py experiment=aniportrait/clip_stage2 data.shards="$out/data/shards/train-*.tar"
$python train.py experiment=aniportrait/clip_audio2mesh data.shards="$out/data/shards/train-*.tar"

draw_and_grade() { # <name> <what more generate.py is told>
  name=$1
  shift
  $python generate.py weights=runs/aniportrait/clip_stage2/weights/last.safetensors \
    shards="$out/data/shards/train-*.tar" out="$out/$name" "$@"
  $python evaluate.py generated="$out/$name" metrics=self_reenactment title="$name" || echo "$name: a check failed"
}

mesh=runs/aniportrait/clip_audio2mesh/weights/last.safetensors
draw_and_grade landmarks span=[0.875,1.0]
draw_and_grade sound span=[0.875,1.0] inputs.audio2mesh=$mesh
draw_and_grade sound_control span=[0.875,1.0] inputs.audio2mesh=$mesh inputs.shift_s=2.0
draw_and_grade heard_sound span=[0.5,0.75] inputs.audio2mesh=$mesh
draw_and_grade heard_sound_control span=[0.5,0.75] inputs.audio2mesh=$mesh inputs.shift_s=2.0
