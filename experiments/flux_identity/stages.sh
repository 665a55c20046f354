#!/usr/bin/env bash
# Fill's adapter, on the cluster, and a second stage from it that looks harder at faces:
#   experiments/flux_identity/stages.sh data.shards='shards/people/shards/train_photos-*.tar'
#   experiments/flux_identity/stages.sh --nodes=2 --partition=gpu data.shards='shards/people/shards/train_photos-*.tar'
# The second starts when the first has ended well. A preempted job leaves with another exit code than 0 and comes back
# by itself, so the second goes on waiting.
set -euo pipefail

options=()
while [ $# -gt 0 ] && [[ $1 == -* ]]; do # for sbatch, each in one word
    options+=("$1")
    shift
done
submit=(sbatch ${options[@]+"${options[@]}"})

first=$("${submit[@]}" --parsable experiments/slurm/train.sbatch experiment=flux_identity/fill_diptych "$@")
"${submit[@]}" --dependency=afterok:"$first" experiments/slurm/train.sbatch experiment=flux_identity/fill_diptych name=flux_identity/fill_diptych_faces stage.init_from=runs/flux_identity/fill_diptych/weights/last.safetensors stage.init_command=stages.sh losses.identity.face_loss_weight=0.2 trainer.max_steps=2000 "$@"
