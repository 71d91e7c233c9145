"""How ranks agree on a mistake, and how all stop when one fails."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from tests.support import mpirun
from wash_hpc.errors import DataError, WorldError
from wash_hpc.parallel.world import World, agreed, on_root, start_mpi, who_said


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_a_mistake_that_one_rank_sees_is_raised_on_all_and_says_which(mpi_ranks, comm):
    def look() -> None:
        with agreed(comm):
            if comm.rank == mpi_ranks - 1:
                raise DataError("no such file")

    with pytest.raises(DataError, match="no such file") as raised:
        look()
    assert raised.value.agreed
    assert " on " not in str(raised.value)  # all ranks are on one host, which is no news
    assert mpi_ranks == 1 or f"rank {mpi_ranks - 1} of {mpi_ranks}" in str(raised.value)
    with agreed(comm):
        pass


@pytest.mark.parametrize(
    ("ranks", "hosts", "says"),
    [
        ([0, 1], ["a", "b"], ""),
        ([1], ["a", "a"], " (said rank 1 of 2)"),
        ([0, 2], ["a", "a", "b", "b"], " (said rank 0, 2 of 4)"),
        ([2, 3], ["a", "a", "b", "b"], " (said rank 2, 3 of 4, on b)"),
        ([1, 4, 5], ["a", "c", "a", "b", "b", "c"], " (said rank 1, 4, 5 of 6, on c, b)"),
        (
            list(range(4, 40, 4)),
            [f"node{rank // 4}" for rank in range(40)],
            " (said rank 4, 8, 12, 16, 20, 24, 28, 32 and 1 more of 40, on node1, node2, node3, node4, node5, node6, "
            "node7, node8 and 1 more)",
        ),
    ],
)
def test_hosts_are_named_where_only_some_of_them_saw_a_mistake(ranks, hosts, says):
    assert who_said(ranks, hosts) == says


@pytest.mark.mpi(ranks=[3], timeout=120)
def test_a_mistake_is_laid_to_the_hosts_of_the_ranks_that_saw_it(mpi_ranks, comm, monkeypatch):
    """The ranks of this test are on one host, so two of them say that they are on another."""
    from wash_hpc.parallel import world

    monkeypatch.setattr(world.socket, "gethostname", lambda: ["first", "second", "second"][comm.rank])

    def look() -> None:
        with agreed(comm):
            if comm.rank == 1:
                raise DataError("no such file")

    with pytest.raises(DataError, match=r"^no such file \(said rank 1 of 3, on second\)$"):
        look()

    def refuse() -> None:
        raise DataError("refused")

    with pytest.raises(DataError, match=r"^refused$"):
        on_root(comm, refuse)
    with pytest.raises(DataError, match=r"^refused \(said rank 0 of 3, on first\)$") as raised:
        on_root(comm, refuse, says_host=True)
    assert raised.value.agreed


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_what_the_root_makes_or_refuses_reaches_all_ranks(mpi_ranks, comm):
    assert on_root(comm, lambda: f"made on {comm.rank}") == "made on 0"

    def refuse() -> None:
        raise DataError("refused")

    with pytest.raises(DataError, match="refused"):
        on_root(comm, refuse)
    with pytest.raises(DataError, match=r"^refused$"):  # there is one host, so it goes without saying
        on_root(comm, refuse, says_host=True)


@pytest.mark.mpi(ranks=[2, 3, 4], timeout=120)
def test_ranks_that_draw_differently_are_named(mpi_ranks, comm):
    world = World.open(start_mpi(), None)
    world.require_same("equal", "the draw")
    if mpi_ranks > 2:
        with pytest.raises(WorldError, match="the draw differs between ranks: rank 1 has 11"):
            world.require_same(11 if comm.rank == 1 else 7, "the draw")


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
