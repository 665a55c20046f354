#!/usr/bin/env bash
# Both stages, on the cluster; they read other photos:
#   experiments/uniportrait/stages.sh 'shards/portraits/shards/train-*.tar' 'shards/groups/shards/train-*.tar'
# Options for sbatch, each in one word, stand before them: stages.sh --nodes=2 --partition=gpu 'shards/…' 'shards/…'
# Stage 2 starts when stage 1 has ended well. A preempted job leaves with another exit code than 0 and comes back by
# itself, so stage 2 goes on waiting.
set -euo pipefail

options=()
while [ $# -gt 0 ] && [[ $1 == -* ]]; do # for sbatch, each in one word
    options+=("$1")
    shift
done
submit=(sbatch ${options[@]+"${options[@]}"})

portraits=$1 groups=$2
shift 2
first=$("${submit[@]}" --parsable experiments/slurm/train.sbatch experiment=uniportrait/stage1 data.shards="$portraits" "$@")
"${submit[@]}" --dependency=afterok:"$first" experiments/slurm/train.sbatch experiment=uniportrait/stage2 data.shards="$groups" "$@"
