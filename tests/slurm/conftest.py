"""One cluster for all tests that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, running_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two idle nodes. Where there is no slurmctld its tests were skipped; one that does not start is a failure."""
    with running_cluster() as running:
        yield running
