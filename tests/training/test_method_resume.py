"""Runs of every method that were stopped and continued equal those that were not, and count the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import TINY, equal_weights
from wash_hpc.errors import WashError
from wash_hpc.storage.metrics import read_metrics

CHECKPOINT = 4

METHODS = {
    "papa": ["method.name=papa", "method.every=3"],
    "papa_all": ["method.name=papa_all", "method.every=1", "data.batch_size=16"],  # after steps 3 and 6
    "sparta": ["method.name=sparta", "method.p=0.3", "method.draw=partitioned", "method.start=2"],
    "local_sgd": ["method.name=local_sgd", "method.every=3"],
    "diloco": ["method.name=diloco", "method.every=3"],
    "diloco_late": ["method.name=diloco", "method.every=2", "method.start=5"],
    "wash_then_diloco": ["method.stop=3", "method.then=[{name: diloco, start: 3, every: 2}]"],
}


def trained(folder: Path, name: str, *overrides: str) -> Path:
    """A run on the ranks of this process."""
    from wash_hpc.train import train

    shared = [*TINY, f"run.dir={folder}", f"run.name={name}", "parallel.reducer=mpi", "optimizer.schedule=constant"]
    train(None, [*shared, f"checkpoint.every_steps={CHECKPOINT}", "train.steps=9", *overrides])
    return folder / name


@pytest.mark.mpi(ranks=[1, 3, 4], timeout=300)
def test_a_run_that_was_stopped_and_continued_equals_one_that_was_not_under_every_method(mpi_ranks, comm, tmp_path):
    folder = Path(comm.bcast(str(tmp_path)))
    members = ["ensemble.members=2"] if mpi_ranks == 4 else []
    for name, options in METHODS.items():
        keys = [*options, *members]
        whole = trained(folder, name, *keys)
        trained(folder, f"{name}_parts", *keys, f"train.steps={CHECKPOINT}")
        parts = trained(folder, f"{name}_parts", *keys, "checkpoint.resume=must")
        comm.Barrier()
        assert equal_weights(whole, parts), name
        assert read_metrics(whole).bytes_sent[-1].tolist() == read_metrics(parts).bytes_sent[-1].tolist(), name
        comm.Barrier()


@pytest.mark.mpi(ranks=[2], timeout=120)
def test_a_checkpoint_of_another_method_that_lacks_what_this_one_needs_is_refused(mpi_ranks, comm, tmp_path):
    folder = Path(comm.bcast(str(tmp_path)))
    trained(folder, "run", "method.name=papa", "method.every=3", f"train.steps={CHECKPOINT}")
    with pytest.raises(WashError, match=r"method\.name=diloco: the checkpoint holds no anchor"):
        trained(folder, "run", "method.name=diloco", "method.every=3", "checkpoint.resume=must")
