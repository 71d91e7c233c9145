#!/usr/bin/env bash
# Trains one run for each of several values of one key and each of several seeds, a task of a job array for each, and puts them into one table.
# Submit it from the folder that holds slurm/ and configs/:
#
#   sbatch slurm/sweep.sh                                                          # 3 values x 2 seeds: tasks 0 to 5
#   sbatch --array=0-3 --export=ALL,KEY=method.name,VALUES="wash papa sparta independent",SEEDS=0 slurm/sweep.sh
#   sbatch --array=0-4%2 --export=ALL,KEY=run.seed,VALUES="0 1 2 3 4",SEEDS=,NAME=seeds slurm/sweep.sh train.epochs=100   # two at a time
#
# Values with commas do not get through --export: export VALUES="[0,1] [0.5]"; sbatch slurm/sweep.sh
# The first task submits a job that waits for all of them and writes runs/NAME.txt, .csv and .html, of those that have finished; it names the others.

#SBATCH --job-name=sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
#SBATCH --array=0-5
#SBATCH --output=slurm-%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@300
#SBATCH --requeue

# ======== what a site edits: from here (an #SBATCH line holds with one # only)
##SBATCH --account=...
##SBATCH --partition=...
SITE=${SITE:-wheel}              # slurm/sites/: wheel openmpi_ucx mpich cray_mpich parastation, or a copy of your own, with your modules
VENV=${VENV:-$PWD/.venv}         # the environment that has wash-hpc
# ======== to here

CONFIG=${CONFIG:-configs/cifar100_vgg16_wash.yaml}
NAME=${NAME:-sweep}
KEY=${KEY:-method.p}
VALUES=${VALUES:-0.0001 0.001 0.01}
SEEDS=${SEEDS-0 1}               # empty: the configuration's own
RUNS=${RUNS:-runs}               # where runs and table go
SUMMARY_OPTIONS=${SUMMARY_OPTIONS:---time=00:10:00}        # of sbatch for the job that makes the table

# shellcheck source=slurm/common.sh
source slurm/common.sh || { echo "submit it from the folder that holds slurm/ and configs/" >&2; exit 2; }

read -ra values <<<"$VALUES"
read -ra seeds <<<"${SEEDS:-own}"
task=${SLURM_ARRAY_TASK_ID:-0} num_runs=$((${#values[@]} * ${#seeds[@]}))
((task < num_runs)) || stop "KEY, VALUES and SEEDS make $num_runs runs, so there is none for task $task: sbatch --array=0-$((num_runs - 1)) ..."

name_of() { local name=$NAME-$1-${values[$1 % ${#values[@]}]}-seed_${seeds[$1 / ${#values[@]}]}; name=${name%-seed_own}; echo "${name//[^A-Za-z0-9._-]/_}"; }

if [[ -n ${SLURM_ARRAY_JOB_ID:-} && $task == "$SLURM_ARRAY_TASK_MIN" && ${SLURM_RESTART_COUNT:-0} == 0 ]]; then
    folders=$(for ((number = 0; number < num_runs; number++)); do echo -n "'$RUNS/$(name_of $number)' "; done)
    # shellcheck disable=SC2086  # several options
    sbatch --job-name="$NAME-summary" --dependency=afterany:"$SLURM_ARRAY_JOB_ID" --nodes=1 --ntasks=1 --output="slurm-%x-%j.out" \
        --partition="$SLURM_JOB_PARTITION" ${SLURM_JOB_ACCOUNT:+--account=$SLURM_JOB_ACCOUNT} $SUMMARY_OPTIONS \
        --wrap="PATH='$PATH' python tools/summarize.py $folders --csv '$RUNS/$NAME.csv' --html '$RUNS/$NAME.html' | tee '$RUNS/$NAME.txt'" ||
        echo "sweep: there will be no table; when all have finished: python tools/summarize.py $folders" >&2
fi
seed=${seeds[task / ${#values[@]}]}
[[ $seed == own ]] || set -- run.seed="$seed" "$@"
train "$CONFIG" "$@" "$KEY=${values[task % ${#values[@]}]}" run.dir="$RUNS" run.name="$(name_of "$task")"
