"""WASH: train an ensemble on a cluster so that it can be averaged into one network (arXiv 2405.17517).

Importing the package needs neither MPI, Horovod, DALI nor h5py; each is imported by the one package that owns it.
For notebooks two names are here, too, and imported when they are used: `read_metrics` and `read_table`.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "read_metrics":
        from wash_hpc.storage.metrics import read_metrics

        return read_metrics
    if name == "read_table":
        from wash_hpc.storage.frames import read_table

        return read_table
    raise AttributeError(f"module 'wash_hpc' has no attribute {name!r}")
