# shellcheck shell=bash
# MPICH 4 with CUDA. Not run by us on GPUs.

# module load mpich cuda
LAUNCHER=${LAUNCHER:-srun --mpi=pmi2 --cpu-bind=cores --gpu-bind=none --kill-on-bad-exit=1}
export MPI4PY_MPIABI=${MPI4PY_MPIABI:-mpich}      # mpi4py's wheel knows both; Horovod has to be built with this MPI, or parallel.reducer=mpi
export MPIR_CVAR_ENABLE_GPU=${MPIR_CVAR_ENABLE_GPU:-1}
export MPIR_CVAR_CH4_OFI_ENABLE_HMEM=${MPIR_CVAR_CH4_OFI_ENABLE_HMEM:-1}
# export FI_PROVIDER=verbs
