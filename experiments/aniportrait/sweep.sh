#!/usr/bin/env bash
# Learning rates and seeds of stage 1, each trial a job that resumes alone:
#   experiments/aniportrait/sweep.sh data.shards='shards/mine/shards/train-*.tar'
set -euo pipefail

python train.py -m experiment=aniportrait/stage1 optimizer.lr=5e-6,1e-5,2e-5 seed=0,1 trainer.max_steps=10000 trainer=slurm callbacks.preemption.requeue=false hydra/launcher=slurm_a100 "$@"
