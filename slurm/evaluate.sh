#!/usr/bin/env bash
# Judges a finished run again, on as many ranks as there are tasks: members, ensemble, soups. Submit it from the folder that holds slurm/:
#
#   sbatch --export=ALL,RUN=runs/imagenet_resnet50_wash slurm/evaluate.sh
#   sbatch --export=ALL,RUN=runs/imagenet_resnet50_wash slurm/evaluate.sh --greedy data.path=/elsewhere/imagenet
#
# After a run that is still in the queue or going: sbatch --dependency=afterok:JOBID ... (afterany, where that is a chain)

#SBATCH --job-name=evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
#SBATCH --output=slurm-%x-%j.out
#SBATCH --open-mode=append

# ======== what a site edits: from here (an #SBATCH line holds with one # only)
##SBATCH --account=...
##SBATCH --partition=...
SITE=${SITE:-wheel}              # slurm/sites/: wheel openmpi_ucx mpich cray_mpich parastation, or a copy of your own, with your modules
VENV=${VENV:-$PWD/.venv}         # the environment that has wash-hpc
# ======== to here

RUN=${RUN:-}                     # a run's folder

# shellcheck source=slurm/common.sh
source slurm/common.sh || { echo "submit it from the folder that holds slurm/ and configs/" >&2; exit 2; }

[[ -n $RUN ]] || stop "RUN is not set; name a run's folder: sbatch --export=ALL,RUN=runs/NAME slurm/evaluate.sh"
[[ -d $RUN ]] || stop "RUN=$RUN: there is no such folder"
launch wash-hpc evaluate "$RUN" "$@"
