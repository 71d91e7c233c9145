"""The start of a run on several ranks: what is read once for all of them, and hosts that lack what others have."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.support import tiny_config
from wash_hpc.config import Config
from wash_hpc.data import require_content
from wash_hpc.data.source import Shard
from wash_hpc.errors import DataError
from wash_hpc.parallel.world import World, start_mpi


def digits_config(folder: Path, *overrides: str) -> Config:
    shape = ["data.image_size=16", "data.resize=16", "parallel.reducer=mpi"]
    return tiny_config("data.name=image_folder", *shape, f"data.path={folder}", *overrides)


def watch(folder: Path) -> list[tuple[str, str]]:
    """From now on, all that Python opens or lists in a folder, as (event, path)."""
    seen: list[tuple[str, str]] = []

    def hook(event: str, given: tuple[object, ...]) -> None:
        if event in {"open", "os.scandir", "os.listdir"} and isinstance(given[0], str | bytes):
            path = given[0] if isinstance(given[0], str) else given[0].decode()
            if path.startswith(str(folder)):
                seen.append((event, path))

    sys.addaudithook(hook)
    return seen


@pytest.mark.mpi(ranks=[2, 3], timeout=120)
def test_the_root_alone_lists_the_images_and_all_ranks_see_the_same(mpi_ranks, comm, digits_folder):
    from wash_hpc.train import set_up

    folder = Path(comm.bcast(str(digits_folder)))
    config = digits_config(folder)
    seen = watch(folder)
    setup = set_up(start_mpi(), config)
    listed = [path for event, path in seen if event != "open"]
    assert len(listed) == (3 + 3 * 10 if comm.rank == 0 else 0)  # three splits of ten classes
    opened = comm.allgather([path for event, path in seen if event == "open"])
    assert all(opened)  # the look at each file's first bytes is shared out
    files = [path for paths in opened for path in paths]
    assert (
        len(set(files))
        == len(files)
        == setup.source.num_train + sum(setup.source.num_images(split) for split in ("held_out", "test"))
    )
    labels = torch.cat([batch.labels for batch in setup.source.evaluate("test", Shard(), 64)])
    assert len({tuple(of_rank.tolist()) for of_rank in comm.allgather(labels)}) == 1


@pytest.mark.mpi(ranks=[2], timeout=120)
def test_digits_and_texts_are_read_by_the_root_for_all(mpi_ranks, comm, tmp_path):
    from wash_hpc.train import read_data

    folder = Path(comm.bcast(str(tmp_path)))
    (folder / "text").write_bytes(bytes(range(256)) * 8)
    comm.Barrier()
    seen = watch(folder)
    world = World.open(start_mpi(), None)
    content = read_data(tiny_config("data.name=text", f"data.path={folder}/text"), world)
    assert bytes(content) == bytes(range(256)) * 8
    assert len(seen) == (1 if comm.rank == 0 else 0)
    assert len(read_data(tiny_config("data.name=digits"), world).train.labels) > 1000
    assert ("sklearn" in sys.modules) == (comm.rank == 0)


@pytest.mark.mpi(ranks=[3], timeout=120)
def test_images_that_one_host_lacks_are_laid_to_it_by_its_name(mpi_ranks, comm, digits_folder, monkeypatch):
    """Of ranks that are on one host, one says that it is the first on another, and looks for its files elsewhere."""
    from dataclasses import replace

    from wash_hpc import train
    from wash_hpc.parallel import world as world_module

    folder = Path(comm.bcast(str(digits_folder)))
    elsewhere = ["node1", "node2", "node2"][comm.rank]
    monkeypatch.setattr(world_module.socket, "gethostname", lambda: elsewhere)
    world = replace(World.open(start_mpi(), None), local_rank=[0, 0, 1][comm.rank])

    def look(config: Config, content: object) -> None:
        """As on the host of this rank, where there is no such folder on node2."""
        data = replace(config.data, path="/nowhere") if elsewhere == "node2" else config.data
        require_content(replace(config, data=data), content)

    monkeypatch.setattr(train, "require_content", look)
    says = r"^data.path=/nowhere: there is no such folder; every host must .* \(said rank 1 of 3, on node2\)$"
    with pytest.raises(DataError, match=says) as raised:
        train.read_data(digits_config(folder), world)
    assert raised.value.agreed
    with pytest.raises(
        DataError, match=r"^data.path=/gone: there is no such folder; .* \(said rank 0 of 3, on node1\)$"
    ):
        train.read_data(digits_config(Path("/gone")), world)
