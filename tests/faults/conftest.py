"""The process from which ranks are forked, one for all tests of faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.warm import warm


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The beginning of a rank's command line; see `faulty.command`."""
    with warm(tmp_path_factory.mktemp("warm")) as start:
        yield start
