"""What a run was made by and of: its configuration, versions, hosts and commit, as the metrics keep them."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import wash_hpc
from wash_hpc.commands import describe_program
from wash_hpc.config import Config, dump_config
from wash_hpc.data.regularize import describe_regularization
from wash_hpc.parallel.layout import Layout
from wash_hpc.slurm import current_job
from wash_hpc.storage.records import Attribute


def describe_run(
    config: Config,
    layout: Layout,
    hosts: Sequence[str],
    num_steps: int,
    first_step: int,
    start_seconds: Mapping[str, float],
) -> dict[str, Attribute]:
    """The attributes of a metrics file.

    Args:
        config: the run's.
        layout: of its world.
        hosts: on which it runs.
        num_steps: of the whole run.
        first_step: steps already done when this start began.
        start_seconds: what the start took, by part.
    """
    job = current_job()
    return {
        "config": dump_config(config),
        "wash_hpc_version": wash_hpc.__version__,
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "git_commit": _git_commit(),
        "program": describe_program(),
        "hosts": " ".join(hosts),
        "num_ranks": layout.size,
        "num_members": layout.num_members,
        "num_replicas": layout.num_replicas,
        "num_steps": num_steps,
        "regularization": describe_regularization(config, layout.num_members),
        "first_step": first_step,
        "start_seconds": json.dumps({part: round(seconds, 3) for part, seconds in start_seconds.items()}),
        "slurm_job_id": "" if job is None else job.job_id,
        "slurm_restart_count": 0 if job is None else job.restart_count,
    }


def _git_commit() -> str:
    """The commit of the source tree that is running, or nothing where it is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
