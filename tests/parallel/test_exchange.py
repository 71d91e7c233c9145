"""The exchange: one Alltoallv that equals the slow reference bit for bit and sends nothing but the values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wash_hpc.parallel.exchange import Exchange
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.probability import layer_probabilities
from wash_hpc.shuffle.reference import shuffle_members

LAYERS = [70, 1, 130, 40]
SIZE = sum(LAYERS)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def drawer_of(num_members: int, p: float, schedule="constant", permutation="uniform") -> Drawer:
    return Drawer(5, num_members, LAYERS, layer_probabilities(schedule, p, len(LAYERS)), permutation)


def initial_values(num_members: int, dtype: torch.dtype, num_rows: int = 1) -> torch.Tensor:
    """[M, rows * P], the same on all ranks, with values that only an exact copy keeps: NaNs, infinities, -0."""
    values = torch.randn(num_members, num_rows * SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[:, :3] = torch.tensor([float("nan"), float("inf"), -0.0]).to(dtype)
    return values


def bits(values: torch.Tensor) -> torch.Tensor:
    return values.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()])


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_exchange_equals_the_slow_reference_bit_for_bit(mpi_ranks, comm):
    for dtype in DTYPES:
        for p, schedule, permutation in [
            (0.0, "constant", "uniform"),
            (0.05, "decreasing", "uniform"),
            (0.5, "increasing", "uniform"),
            (0.5, "constant", "cyclic"),
            (1.0, "constant", "uniform"),
        ]:
            drawer = drawer_of(mpi_ranks, p, schedule, permutation)
            everyone = initial_values(mpi_ranks, dtype)
            mine = everyone[comm.rank].clone()
            exchange = Exchange(comm, mine, drawer.expected_picked)
            address = mine.data_ptr()
            for step in range(1, 6):
                draw = drawer.draw(step)
                exchange(make_plan(draw, comm.rank))
                everyone = shuffle_members(everyone, draw)
                assert torch.equal(bits(mine), bits(everyone[comm.rank]))
            assert mine.data_ptr() == address


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_shuffle_keeps_the_set_of_values_at_every_position_on_real_ranks(mpi_ranks, comm):
    drawer = drawer_of(mpi_ranks, 0.4)
    mine = torch.randn(SIZE, generator=torch.Generator().manual_seed(comm.rank))
    before = np.sort(comm.allgather(mine.numpy().copy()), axis=0)
    exchange = Exchange(comm, mine, drawer.expected_picked)
    for step in range(20):
        exchange(make_plan(drawer.draw(step), comm.rank))
    assert np.array_equal(before, np.sort(comm.allgather(mine.numpy().copy()), axis=0))


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_optimizer_state_moves_with_its_values_in_the_same_collective(mpi_ranks, comm):
    drawer = drawer_of(mpi_ranks, 0.3)
    everyone = initial_values(mpi_ranks, torch.float32, num_rows=3).view(mpi_ranks, 3, SIZE)
    mine = everyone[comm.rank].clone()
    exchange = Exchange(comm, mine.view(-1), 3 * drawer.expected_picked)
    draw = drawer.draw(1)
    exchange(make_plan(draw, comm.rank, num_rows=3, row_size=SIZE))
    for row in range(3):
        expected = shuffle_members(everyone[:, row].contiguous(), draw)[comm.rank]
        assert torch.equal(bits(mine[row]), bits(expected))


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_bytes_sent_are_the_moved_values_and_nothing_else(mpi_ranks, comm):
    """Counted where MPI is called: what is handed to Alltoallv, and that nothing else is."""
    calls: list[tuple[int, int]] = []

    class Counting:
        size, rank = comm.size, comm.rank

        def Alltoallv(self, send, recv):  # noqa: N802 - mpi4py's name
            calls.append((int(send[1].sum()) * send[3].Get_size(), int(send[1][comm.rank])))
            comm.Alltoallv(send, recv)

    for dtype in DTYPES:
        calls.clear()
        drawer = drawer_of(mpi_ranks, 0.3)
        exchange = Exchange(Counting(), torch.zeros(SIZE, dtype=dtype), drawer.expected_picked)
        counted = [
            (exchange(plan), plan.num_moved) for plan in (make_plan(drawer.draw(s), comm.rank) for s in range(10))
        ]
        assert [sent for sent, _ in counted] == [moved * dtype.itemsize for _, moved in counted]
        assert calls == ([(sent, 0) for sent, _ in counted] if mpi_ranks > 1 else [])


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_buffers_are_allocated_once_unless_a_draw_is_larger_than_they_are(mpi_ranks, comm):
    mine = torch.arange(SIZE, dtype=torch.float32) + 1000 * comm.rank
    everyone = torch.stack([torch.arange(SIZE, dtype=torch.float32) + 1000 * rank for rank in range(mpi_ranks)])
    drawer = drawer_of(mpi_ranks, 0.2)
    exchange = Exchange(comm, mine, drawer.expected_picked)
    addresses = set()
    for step in range(5):
        draw = drawer.draw(step)
        exchange(make_plan(draw, comm.rank))
        everyone = shuffle_members(everyone, draw)
        addresses.add((exchange._send.data_ptr(), exchange._recv.data_ptr()))
    assert len(addresses) == 1
    draw = drawer_of(mpi_ranks, 1.0).draw(9)  # far above what was expected
    exchange(make_plan(draw, comm.rank))
    assert torch.equal(mine, shuffle_members(everyone, draw)[comm.rank])


def test_values_that_are_not_flat_are_refused():
    with pytest.raises(ValueError, match="flat and contiguous"):
        Exchange(None, torch.zeros(4, 4), 1.0)
    with pytest.raises(ValueError, match="flat and contiguous"):
        Exchange(None, torch.zeros(8)[::2], 1.0)
