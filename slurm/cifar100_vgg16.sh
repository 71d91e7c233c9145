#!/usr/bin/env bash
# Trains five VGG-16 on CIFAR-100 under Slurm, one rank a GPU: 5 members on one node of 5 GPUs; 300 epochs.
# Submit it from the folder that holds slurm/ and configs/:
#
#   sbatch --export=ALL,DATA=/datasets/cifar slurm/cifar100_vgg16.sh
#   sbatch --export=ALL,METHOD=independent slurm/cifar100_vgg16.sh
#   sbatch --export=ALL,METHOD=heterogeneous_wash --ntasks-per-node=4 --gpus-per-node=4 slurm/cifar100_vgg16.sh run.seed=1 run.name=seed_1
#
# METHOD is the end of a file's name in configs/. On fewer GPUs than members: docs/clusters.md, "Many members on few GPUs".
# Five minutes before its time is over the run writes a checkpoint and the job goes back into the queue.

#SBATCH --job-name=cifar100_vgg16
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=5
#SBATCH --gpus-per-node=5
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
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

DATA=${DATA:-data}               # the folder that torchvision downloads to, the one that holds cifar-100-python
CONFIG=${CONFIG:-configs/cifar100_vgg16_${METHOD:-wash}.yaml}

# shellcheck source=slurm/common.sh
source slurm/common.sh || { echo "submit it from the folder that holds slurm/ and configs/" >&2; exit 2; }

train "$CONFIG" data.path="$DATA" "$@"
