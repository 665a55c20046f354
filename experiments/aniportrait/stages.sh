#!/usr/bin/env bash
# Both stages and the audio models, on the cluster:
#   experiments/aniportrait/stages.sh data.shards='shards/mine/shards/train-*.tar'
#   experiments/aniportrait/stages.sh --nodes=2 --partition=gpu data.shards='shards/mine/shards/train-*.tar'
# Stage 2 starts when stage 1 has ended well; the audio models wait for nobody. A preempted job leaves with another exit
# code than 0 and comes back by itself, so stage 2 goes on waiting.
set -euo pipefail

options=()
while [ $# -gt 0 ] && [[ $1 == -* ]]; do # for sbatch, each in one word
    options+=("$1")
    shift
done
submit=(sbatch ${options[@]+"${options[@]}"})

first=$("${submit[@]}" --parsable experiments/slurm/train.sbatch experiment=aniportrait/stage1 "$@")
"${submit[@]}" --dependency=afterok:"$first" experiments/slurm/train.sbatch experiment=aniportrait/stage2 "$@"
"${submit[@]}" experiments/slurm/train.sbatch experiment=aniportrait/audio2mesh "$@"
"${submit[@]}" experiments/slurm/train.sbatch experiment=aniportrait/audio2pose "$@"
