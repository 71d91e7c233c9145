#!/usr/bin/env bash
# Trains the runs of a sweep (docs/sweeps.md), a task of a job array for each, and puts them into one table. It is submitted, for what has not finished,
# with a job behind it that reports, by
#
#   wash-hpc sweep configs/sweeps/digits_p.yaml --slurm                                         # from the folder that holds slurm/ and configs/
#   wash-hpc sweep FILE train.epochs=100 --slurm --sbatch "--time=2:00:00 --partition=gpu" --at-once 4
#
# or by hand: sbatch --array=0-5 slurm/sweep.sh FILE [key=value ...] trains runs 0 to 5 of the file; without --array it reports. Nodes and tasks per
# node are to make the `ranks` of the file. The same command again submits what is left.

#SBATCH --job-name=sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
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

# shellcheck source=slurm/common.sh
source slurm/common.sh || { echo "submit it from the folder that holds slurm/ and configs/" >&2; exit 2; }

if [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
    exec wash-hpc sweep "$@" --report
fi
arguments=$(wash-hpc sweep "$@" --task "$SLURM_ARRAY_TASK_ID") || exit 2  # said in one sentence: a mistake in the file
mapfile -t arguments <<<"$arguments"
train "${arguments[@]}"
