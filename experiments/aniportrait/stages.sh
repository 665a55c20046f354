#!/usr/bin/env bash
# Both stages and the audio models, on the cluster:
#   experiments/aniportrait/stages.sh data.shards='shards/mine/shards/train-*.tar'
# Stage 2 starts when stage 1 has ended well; the audio models wait for nobody. A preempted job leaves with another exit
# code than 0 and comes back by itself, so stage 2 goes on waiting.
set -euo pipefail

first=$(sbatch --parsable experiments/slurm/train.sbatch experiment=aniportrait/stage1 "$@")
sbatch --dependency=afterok:"$first" experiments/slurm/train.sbatch experiment=aniportrait/stage2 "$@"
sbatch experiments/slurm/train.sbatch experiment=aniportrait/audio2mesh "$@"
sbatch experiments/slurm/train.sbatch experiment=aniportrait/audio2pose "$@"
