#!/usr/bin/env bash
# Trains an ensemble of ResNet-50 on ImageNet under Slurm, one rank a GPU: 4 members x 2 replicas on 2 nodes of 4 GPUs.
# Submit it from the folder that holds slurm/ and configs/:
#
#   sbatch slurm/imagenet_resnet50.sh
#   sbatch --export=ALL,DATA=/datasets/imagenet,METHOD=independent slurm/imagenet_resnet50.sh
#   sbatch --nodes=4 --export=ALL,MEMBERS=8 slurm/imagenet_resnet50.sh method.p=0.01 run.name=eight_members
#
# Options of sbatch change the machine, variables the settings below, key=value arguments anything in the configuration; these win.
# Nodes x tasks must be a multiple of MEMBERS. Five minutes before its time is over the run writes a checkpoint and the job goes back into the queue;
# submitted again, it continues the run of that name. Where jobs may not be queued again: sbatch --array=1-10%1 ..., a chain.

#SBATCH --job-name=imagenet_resnet50
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=2-00:00:00
#SBATCH --output=slurm-%x-%j.out
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@300
#SBATCH --requeue

# ======== what a site edits: from here (an #SBATCH line holds with one # only)
##SBATCH --account=...
##SBATCH --partition=...
SITE=${SITE:-wheel}              # slurm/sites/: wheel openmpi_ucx mpich cray_mpich parastation, or a copy of your own, with your modules
VENV=${VENV:-$PWD/.venv}         # the environment that has wash-hpc
# ======== to here

MEMBERS=${MEMBERS:-4}
DATA=${DATA:-data/imagenet}
CONFIG=${CONFIG:-configs/imagenet_resnet50_${METHOD:-wash}.yaml}
WORKERS=${WORKERS:-${SLURM_CPUS_PER_TASK:-8}}

# shellcheck source=slurm/common.sh
source slurm/common.sh || { echo "submit it from the folder that holds slurm/ and configs/" >&2; exit 2; }

train "$CONFIG" ensemble.members="$MEMBERS" data.path="$DATA" data.workers="$WORKERS" "$@"
