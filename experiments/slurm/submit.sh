#!/usr/bin/env bash
# Submit a job that runs this commit, whatever happens to the checkout while the job waits in the queue:
#   experiments/slurm/submit.sh train.sbatch experiment=aniportrait/stage1 data.shards=…
# The code comes from a git worktree of the commit; runs/ and shards/ stay those of this folder. Options for sbatch:
# SBATCH_PARTITION, SBATCH_ACCOUNT and so on in the environment.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: experiments/slurm/submit.sh <a script of experiments/slurm> [override …]" >&2
    exit 2
fi
script=$1
shift
root=$(git rev-parse --show-toplevel)
if [ -n "$(git -C "$root" status --porcelain)" ]; then
    echo "error: there are changes that no commit holds; commit them, so that the run can be repeated" >&2
    git -C "$root" status --short >&2
    exit 1
fi
commit=$(git -C "$root" rev-parse HEAD)
tree=${PORTRAITGEN_WORKTREES:-$root/../portraitgen-worktrees}/${commit:0:12}
if [ ! -d "$tree" ]; then
    git -C "$root" worktree add --quiet --detach "$tree" "$commit"
fi
cd "$root"
PORTRAITGEN_TREE=$(realpath "$tree")
export PORTRAITGEN_TREE
sbatch "$PORTRAITGEN_TREE/experiments/slurm/$script" "$@"
