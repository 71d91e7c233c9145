"""Whole runs whose exchanges run while the next step computes: restarts, shuffles and replicas as without."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support import TINY, equal_weights
from wash_hpc.errors import WashError
from wash_hpc.storage.summary import read_summary

CHECKPOINT = 4  # in mid-exchange in all runs below: the exchange of step 4 is applied after step 5
UNDER_WAY = {"received", "replaced", "sick"}


def trained(folder: Path, name: str, *overrides: str) -> Path:
    """A run on the ranks of this process."""
    from wash_hpc.train import train

    shared = [*TINY, f"run.dir={folder}", f"run.name={name}", "optimizer.schedule=constant", "parallel.reducer=mpi"]
    train(None, [*shared, f"checkpoint.every_steps={CHECKPOINT}", "checkpoint.keep=9", "train.steps=9", *overrides])
    return folder / name


def saved_by_method(run: Path, member: int) -> set[str]:
    """What the method has put into a member's checkpoint of step 4."""
    names = load_file(run / "checkpoints" / f"step-{CHECKPOINT:08d}" / f"member-{member:04d}.safetensors")
    return {name.removeprefix("method.") for name in names if name.startswith("method.")}


@pytest.mark.mpi(ranks=[3], timeout=240)
def test_an_overlapped_run_that_was_stopped_in_mid_exchange_equals_one_that_was_not(mpi_ranks, comm, tmp_path):
    folder = Path(comm.bcast(str(tmp_path)))
    for name, overrides in {
        "every_step": ["method.schedule=increasing", "method.permutation=cyclic"],
        "now_and_then": ["method.every=3", "method.start=1", "method.stop=7"],
        "with_momentum": ["method.optimizer_state=true"],
        "ring": ["method.topology=ring"],  # member 0 or 2 rests
    }.items():
        overlapped = [*overrides, "method.overlap=true"]
        whole = trained(folder, name, *overlapped)
        trained(folder, f"{name}_parts", *overlapped, f"train.steps={CHECKPOINT}")
        if name == "every_step":
            with pytest.raises(WashError, match=r"method\.overlap=false: the checkpoint was written in mid-exchange"):
                trained(folder, f"{name}_parts", *overrides, "checkpoint.resume=must")
        parts = trained(folder, f"{name}_parts", *overlapped, "checkpoint.resume=must")
        comm.Barrier()
        assert saved_by_method(whole, comm.rank) == UNDER_WAY
        assert equal_weights(whole, parts)
        assert read_summary(whole).bytes_sent_per_member == read_summary(parts).bytes_sent_per_member > 0
        assert not equal_weights(whole, trained(folder, f"{name}_synchronous", *overrides))
        comm.Barrier()


@pytest.mark.mpi(ranks=[3], timeout=240)
def test_overlapped_runs_that_learn_nothing_are_the_synchronous_ones_and_without_an_exchange_independent(
    mpi_ranks, comm, tmp_path
):
    folder = Path(comm.bcast(str(tmp_path)))
    # No running statistics: they are those of the parameters of each step, which come a step later.
    still = ["optimizer.lr=0", "optimizer.min_lr=0", "model.name=mlp"]
    for name, overrides, other in [
        ("shuffles", still, [*still, "method.overlap=false"]),
        ("now_and_then", [*still, "method.every=3", "method.start=1", "method.stop=7"], ["method.overlap=false"]),
        ("nothing_picked", ["method.p=0"], ["method.name=independent"]),
    ]:
        overlapped = trained(folder, name, "method.overlap=true", *overrides)
        equal = trained(folder, f"{name}_other", *overrides, *other)
        comm.Barrier()
        assert equal_weights(overlapped, equal)
        assert read_summary(overlapped).bytes_sent_per_member == read_summary(equal).bytes_sent_per_member
        assert saved_by_method(overlapped, comm.rank) == (set() if name == "nothing_picked" else UNDER_WAY)
        comm.Barrier()


@pytest.mark.mpi(ranks=[1], timeout=120)
def test_an_overlapped_run_of_one_member_is_an_independent_one(mpi_ranks, comm, tmp_path):
    assert equal_weights(
        trained(tmp_path, "alone", "method.overlap=true"), trained(tmp_path, "independent", "method.name=independent")
    )
