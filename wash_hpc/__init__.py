"""WASH: train an ensemble on a cluster so that it can be averaged into one network (arXiv 2405.17517).

Importing the package needs neither MPI, Horovod, DALI nor h5py; each is imported by the one package that owns it.
"""

__version__ = "0.1.0"
