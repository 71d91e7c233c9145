"""How ranks agree on a mistake, and how all stop when one fails."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from tests.support import mpirun
from wash_hpc.errors import DataError, WashError, WorldError
from wash_hpc.parallel.world import World, agreed, on_root, start_mpi


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_a_mistake_that_one_rank_sees_is_raised_on_all_and_says_which(mpi_ranks, comm):
    def look() -> None:
        with agreed(comm):
            if comm.rank == mpi_ranks - 1:
                raise DataError("no such file")

    with pytest.raises(WashError, match="no such file") as raised:
        look()
    assert raised.value.agreed
    assert mpi_ranks == 1 or f"rank {mpi_ranks - 1} of {mpi_ranks}" in str(raised.value)
    with agreed(comm):
        pass


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_what_the_root_makes_or_refuses_reaches_all_ranks(mpi_ranks, comm):
    assert on_root(comm, lambda: f"made on {comm.rank}") == "made on 0"

    def refuse() -> None:
        raise DataError("refused")

    with pytest.raises(DataError, match="refused"):
        on_root(comm, refuse)


@pytest.mark.mpi(ranks=[2, 3, 4], timeout=120)
def test_ranks_that_draw_differently_are_named(mpi_ranks, comm):
    world = World.open(start_mpi(), None)
    world.require_same("equal", "the draw")
    if mpi_ranks > 2:
        with pytest.raises(WorldError, match="the draw differs between ranks: rank 1 has 11"):
            world.require_same(11 if comm.rank == 1 else 7, "the draw")


@pytest.mark.mpi(ranks=[1, 3], timeout=120)
def test_a_list_that_is_longer_on_some_ranks_names_them_and_the_first_that_differs(mpi_ranks, comm):
    world = World.open(start_mpi(), None)
    world.require_same_items(["a", "b"], "the lists")
    if mpi_ranks > 1:
        says = "the lists differ between ranks: rank 1, 2 not like the others; rank 1 has b where they have nothing"
        items = [["a"], ["a", "b"], ["a", "c"]][comm.rank]
        with pytest.raises(WorldError, match=says) as raised:
            world.require_same_items(items, "the lists")
        assert raised.value.agreed


FAILING_JOB = """
import sys, time
from wash_hpc.parallel.world import abort_on_uncaught_error, start_mpi
comm = start_mpi()
abort_on_uncaught_error(f"rank {comm.rank} (member {comm.rank}, replica 0)", comm.rank)
if comm.rank in [int(rank) for rank in sys.argv[1].split(",")]:
    raise RuntimeError("the disk is on fire")
comm.Barrier()  # the others wait here for a rank that never comes
"""


@pytest.mark.parametrize("failing", ["1", "0", "0,1,2,3"])
def test_an_uncaught_error_ends_all_ranks_within_ten_seconds_and_is_printed_once(failing):
    done = mpirun(4, sys.executable, "-c", FAILING_JOB, failing, timeout=60)
    assert done.returncode != 0
    assert done.stderr.count("RuntimeError: the disk is on fire") == 1
    assert f"rank {failing[0]} (member {failing[0]}, replica 0) failed" in done.stderr


def test_an_uncaught_error_in_a_training_step_ends_the_job_within_ten_seconds(tmp_path):
    """The moment of the error is written by the rank that fails; from there all ranks have ten seconds."""
    job = f"""
import sys, time
from pathlib import Path
from tests.support import TINY
from wash_hpc.member import Member
from wash_hpc.train import train
step = Member.step
def fail(self, batch, number):
    if number == 3 and self._place == (1, 0):
        Path({str(tmp_path / "failed")!r}).write_text(repr(time.time()))
        raise ArithmeticError("the third step")
    step(self, batch, number)
Member.step = fail
train(None, [*TINY, "run.dir={tmp_path}", "run.name=fails"])
"""
    done = mpirun(3, sys.executable, "-c", job, timeout=120)
    ended = time.time()
    assert done.returncode != 0
    assert done.stderr.count("ArithmeticError: the third step") == 1
    assert "rank 1 (member 1, replica 0) failed" in done.stderr
    assert ended - float((tmp_path / "failed").read_text()) < 10


def test_a_mistake_met_by_one_rank_alone_in_mid_run_ends_the_job_with_one_sentence(tmp_path):
    job = f"""
from tests.support import TINY
from wash_hpc.__main__ import main
from wash_hpc.errors import DataError
from wash_hpc.member import Member
def fail(self, batch, number):
    if self._place == (1, 0):
        raise DataError("bad.jpg: this image cannot be decoded")
Member.step = fail
from pathlib import Path
config = Path({str(tmp_path)!r}) / "c.yaml"
config.write_text("{{}}")
raise SystemExit(main(["train", str(config), *TINY, "run.dir={tmp_path}", "run.name=fails"]))
"""
    done = mpirun(3, sys.executable, "-c", job, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("wash_hpc: error: bad.jpg: this image cannot be decoded") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_values_of_other_messages_never_meet_ours(mpi_ranks, comm):
    """The world works on a communicator of its own: a message left over on COMM_WORLD is not taken for one of ours."""
    world = World.open(start_mpi(), None)
    request = comm.isend("somebody else's", dest=comm.rank, tag=0)
    total = torch.tensor(world.comm.allreduce(1))
    assert int(total) == mpi_ranks
    assert comm.recv(source=comm.rank, tag=0) == "somebody else's"
    request.wait()
