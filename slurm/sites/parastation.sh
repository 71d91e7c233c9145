# shellcheck shell=bash
# ParaStation MPI (psmpi), whose own Slurm plugin launches ranks. Not run by us.

# module load GCC ParaStationMPI MPI-settings/CUDA
LAUNCHER=${LAUNCHER:-srun --cpu-bind=cores --gpu-bind=none --kill-on-bad-exit=1}
export MPI4PY_MPIABI=${MPI4PY_MPIABI:-mpich}      # psmpi has MPICH's; Horovod has to be built with this MPI, or parallel.reducer=mpi
export PSP_CUDA=${PSP_CUDA:-1}
# export PSP_UCP=1
# export NCCL_SOCKET_IFNAME=ib0
