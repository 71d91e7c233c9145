#!/usr/bin/env bash
# Proves in two minutes, without data, that a site works: 4 ranks on 2 nodes try every part, train four members with WASH and judge them.
# Submit it from the folder that holds slurm/ and configs/; the output ends with "smoke: all of it works", or says what does not:
#
#   sbatch slurm/smoke.sh
#   sbatch --gpus-per-node=0 slurm/smoke.sh                      # nodes without GPUs
#   sbatch --export=ALL,SITE=openmpi_ucx slurm/smoke.sh          # another profile of slurm/sites/

#SBATCH --job-name=smoke
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=2
#SBATCH --time=00:10:00
#SBATCH --output=slurm-%x-%j.out
#SBATCH --open-mode=append

# ======== what a site edits: from here (an #SBATCH line holds with one # only)
##SBATCH --account=...
##SBATCH --partition=...
SITE=${SITE:-wheel}              # slurm/sites/: wheel openmpi_ucx mpich cray_mpich parastation, or a copy of your own, with your modules
VENV=${VENV:-$PWD/.venv}         # the environment that has wash-hpc
# ======== to here

RUNS=${RUNS:-runs}

# shellcheck source=slurm/common.sh
source slurm/common.sh || { echo "submit it from the folder that holds slurm/ and configs/" >&2; exit 2; }

run=smoke-$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
echo "smoke: 1/3 what MPI, Horovod, DALI, HDF5 and the GPUs can do (wash-hpc doctor)"
launch wash-hpc doctor || stop "something is broken, see above"
echo "smoke: 2/3 training with WASH"
device=cuda
[[ ${SLURM_GPUS_ON_NODE:-0} != 0 ]] || device=cpu
launch wash-hpc train configs/smoke.yaml run.dir="$RUNS" run.name="$run" parallel.device="$device" "$@" || stop "training failed, see above"
echo "smoke: 3/3 judging what has been written, and the table"
launch wash-hpc evaluate "$RUNS/$run" || stop "judging failed, see above"
python tools/summarize.py "$RUNS/$run"
echo "smoke: all of it works"
