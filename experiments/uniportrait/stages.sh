#!/usr/bin/env bash
# Both stages, on the cluster; they read other photos:
#   experiments/uniportrait/stages.sh 'shards/portraits/shards/train-*.tar' 'shards/groups/shards/train-*.tar'
# Stage 2 starts when stage 1 has ended well. A preempted job leaves with another exit code than 0 and comes back by
# itself, so stage 2 goes on waiting.
set -euo pipefail

portraits=$1 groups=$2
shift 2
first=$(sbatch --parsable experiments/slurm/train.sbatch experiment=uniportrait/stage1 data.shards="$portraits" "$@")
sbatch --dependency=afterok:"$first" experiments/slurm/train.sbatch experiment=uniportrait/stage2 data.shards="$groups" "$@"
