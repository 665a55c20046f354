#!/usr/bin/env bash
# Submit a job that runs this commit, whatever happens to the checkout while the job waits in the queue:
#   experiments/slurm/submit.sh train.sbatch experiment=aniportrait/stage1 data.shards=…
#   experiments/slurm/submit.sh --nodes=4 --partition=gpu train.sbatch experiment=aniportrait/stage2
# The code comes from a git worktree of the commit; runs/, shards/ and conf/local/ stay those of this folder. What stands
# before the script are options for sbatch, each in one word (--nodes=4); SBATCH_PARTITION and so on in the environment
# work too.
set -euo pipefail

options=()
while [ $# -gt 0 ] && [[ $1 == -* ]]; do
    options+=("$1")
    shift
done
if [ $# -lt 1 ] || [[ $1 != *.sbatch ]]; then
    echo "usage: experiments/slurm/submit.sh [--option=value …] <a .sbatch of experiments/slurm> [override …]" >&2
    exit 2
fi
script=$1
shift
root=$(git rev-parse --show-toplevel)
# A log or a video that lies about is no part of the code; a module or an experiment that was not added is.
unsaved=$(
    git -C "$root" status --short --untracked-files=no
    git -C "$root" ls-files --others --exclude-standard -- conf portraitgen experiments '*.py' | sed 's/^/?? /'
)
if [ -n "$unsaved" ]; then
    echo "error: there are changes that no commit holds; commit them, so that the run can be repeated" >&2
    echo "$unsaved" >&2
    exit 1
fi
commit=$(git -C "$root" rev-parse HEAD)
tree=${PORTRAITGEN_WORKTREES:-$root/../portraitgen-worktrees}/${commit:0:12}
if [ ! -d "$tree" ]; then
    git -C "$root" worktree add --quiet --detach "$tree" "$commit"
fi
settings=$tree/conf/local # this machine's settings, which no commit holds; a job that reads them now finds them there
[ "$(readlink "$settings")" = "$root/conf/local" ] || ln -sfn "$root/conf/local" "$settings"
cd "$root"
PORTRAITGEN_TREE=$(realpath "$tree")
export PORTRAITGEN_TREE
sbatch ${options[@]+"${options[@]}"} "$PORTRAITGEN_TREE/experiments/slurm/$script" "$@"
