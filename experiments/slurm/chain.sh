#!/usr/bin/env bash
# From videos to figures: prepare → each stage → generate → evaluate, as jobs that wait for each other:
#   experiments/slurm/chain.sh videos/ shards/mine aniportrait/stage1,aniportrait/stage2
#   experiments/slurm/chain.sh --nodes=3 videos/ shards/mine loopy/stage1,loopy/stage2 trainer.max_steps=30000
# Options of sbatch and settings behind are those of the training jobs. PREPARE, GENERATE and EVALUATE in the environment
# hold settings of the others, and SHARES the number of jobs that generate: PREPARE='fps=25' SHARES=8.
# A job whose predecessor failed is cancelled; one that runs into its time limit comes back, and the others wait for it.
set -euo pipefail

options=()
while [ $# -gt 0 ] && [[ $1 == -* ]]; do # for sbatch, each in one word
    options+=("$1")
    shift
done
if [ $# -lt 3 ]; then
    echo "usage: chain.sh [--option=value …] <videos> <folder of shards> <experiment,experiment…> [override …]" >&2
    exit 2
fi
source=$1 out=$2 stages=$3
shift 3
read -ra prepare <<<"${PREPARE:-}"
read -ra generate <<<"${GENERATE:-}"
read -ra evaluate <<<"${EVALUATE:-}"
here=$(dirname "$0")
shards=$out/shards/train-*.tar

after() { # <job> <words of submit.sh …>: prints the job that waits for it
    "$here/submit.sh" --parsable --kill-on-invalid-dep=yes --dependency=afterok:"$1" "${@:2}"
}

job=$("$here/submit.sh" --parsable prepare.sbatch source="$source" out="$out" ${prepare[@]+"${prepare[@]}"})
echo "$job prepare"
for stage in ${stages//,/ }; do
    job=$(after "$job" ${options[@]+"${options[@]}"} train.sbatch experiment="$stage" data.shards="$shards" "$@")
    echo "$job $stage"
done
array=()
if [ "${SHARES:-1}" -gt 1 ]; then
    array=(--array=0-$((SHARES - 1)))
fi
generated=runs/$stage/generated
job=$(after "$job" ${array[@]+"${array[@]}"} generate.sbatch "$generated" \
    weights="runs/$stage/weights/last.safetensors" shards="$shards" span=[0.75,1.0] ${generate[@]+"${generate[@]}"})
echo "$job generate"
job=$(after "$job" evaluate.sbatch "$generated" ${evaluate[@]+"${evaluate[@]}"})
echo "$job evaluate"
