"""What the tests' jobs have in common: the script, a run of seconds, and what ranks need on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.slurm.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "slurm/imagenet_resnet50.sh"

TINY = [
    "model.name=resnet_small",
    "data.image_size=32",
    "data.resize=32",
    "data.batch_size=8",
    "data.workers=1",
    "train.steps=6",
    "train.precision=fp32",
    "evaluate.statistics_images=64",
    "log.every_steps=2",
    "parallel.device=cpu",
]


def settings_on(cluster: Cluster) -> dict[str, str]:
    """Environment variables of a job: what four ranks need on a machine with fewer cores. A real cluster needs none."""
    return {
        "VENV": sys.prefix,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMPI_MCA_btl_tcp_if_include": cluster.interface,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # MPI says which ranks are on which node and how they talk.
        "OMPI_MCA_ompi_display_comm": "mpi_init",
    }
