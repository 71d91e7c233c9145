# shellcheck shell=bash
# The Open MPI of PyPI's wheel, as `make setup` installs it. It knows no CUDA: values travel through host memory.

LAUNCHER=${LAUNCHER:-mpirun --bind-to none}       # starts its daemons through Slurm; left alone it may bind a rank and its loader to one core
# LAUNCHER="srun --mpi=pmix --cpu-bind=cores --gpu-bind=none --kill-on-bad-exit=1"     # where the nodes' Slurm has PMIx (srun --mpi=list)
export PMIX_MCA_psec=${PMIX_MCA_psec:-native}     # the wheel has no munge, by which Slurm's PMIx would know its ranks
# export OMPI_MCA_btl_tcp_if_include=ib0          # the network between the nodes, where Open MPI takes the wrong one
# export NCCL_SOCKET_IFNAME=ib0                   # the same for NCCL
