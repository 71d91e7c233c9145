# shellcheck shell=bash
# Sourced by the demo and the tests: what ranks on ONE machine need, more of them than cores included. Not for a cluster, where ranks are to be
# bound to cores and must not yield: there the job scripts in slurm/ say what holds.

VIRTUAL_ENV=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.venv" && pwd)
PATH=$VIRTUAL_ENV/bin:$PATH
export VIRTUAL_ENV PATH

# Four ranks on two cores: as mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle 1. A rank that waits would otherwise spin on the
# core on which another is still importing torch, for minutes.
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export PRTE_MCA_hwloc_default_binding_policy=none
export OMPI_MCA_mpi_yield_when_idle=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# mpirun refuses root unless told twice; in a container one often is.
if [[ $(id -u) == 0 ]]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
