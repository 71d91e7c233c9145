# shellcheck shell=bash
# Cray MPICH on Slingshot. Not run by us.

# module load PrgEnv-gnu cray-mpich craype-accel-nvidia80 cudatoolkit
LAUNCHER=${LAUNCHER:-srun --mpi=cray_shasta --cpu-bind=cores --gpu-bind=none --kill-on-bad-exit=1}
export MPI4PY_MPIABI=${MPI4PY_MPIABI:-mpich}      # mpi4py's wheel knows both; Horovod has to be built with this MPI, or parallel.reducer=mpi
export MPICH_GPU_SUPPORT_ENABLED=${MPICH_GPU_SUPPORT_ENABLED:-1}
# export LD_PRELOAD=$CRAY_MPICH_ROOTDIR/gtl/lib/libmpi_gtl_cuda.so    # GPU support ends with "GTL library is not linked" without it
# export NCCL_SOCKET_IFNAME=hsn
