#!/usr/bin/env bash
# Both stages, on the cluster:
#   experiments/loopy/stages.sh data.shards='shards/talking/shards/train-*.tar'
#   experiments/loopy/stages.sh --nodes=3 --partition=gpu data.shards='shards/talking/shards/train-*.tar'
# Stage 2 starts when stage 1 has ended well. A preempted job leaves with another exit code than 0 and comes back by
# itself, so stage 2 goes on waiting.
set -euo pipefail

options=()
while [ $# -gt 0 ] && [[ $1 == -* ]]; do # for sbatch, each in one word
    options+=("$1")
    shift
done
submit=(sbatch ${options[@]+"${options[@]}"})

first=$("${submit[@]}" --parsable experiments/slurm/train.sbatch experiment=loopy/stage1 "$@")
"${submit[@]}" --dependency=afterok:"$first" experiments/slurm/train.sbatch experiment=loopy/stage2 "$@"
