"""The exchange: one Alltoallv that equals the slow reference bit for bit and sends nothing but values and health."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support import CountingComm
from wash_hpc.parallel.exchange import Exchange
from wash_hpc.parallel.overlap import OverlappedExchange
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.probability import layer_probabilities
from wash_hpc.shuffle.reference import shuffle_members
from wash_hpc.shuffle.topology import Topology

LAYERS = [70, 1, 130, 40]
SIZE = sum(LAYERS)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def drawer_of(num_members: int, p: float, schedule="constant", permutation="uniform", topology="global") -> Drawer:
    nodes = tuple(member // 2 for member in range(num_members))
    where = Topology(num_members, topology, nodes=nodes, node_ratio=3)
    return Drawer(5, where, LAYERS, layer_probabilities(schedule, p, len(LAYERS)), permutation)


def initial_storage(num_members: int, dtype: torch.dtype, num_rows: int = 1) -> torch.Tensor:
    """[M, rows * P + 1], the same on all ranks, with values that only an exact copy keeps, and the spare element."""
    storage = torch.randn(num_members, num_rows * SIZE + 1, generator=torch.Generator().manual_seed(0)).to(dtype)
    storage[:, :2] = torch.tensor([-0.0, torch.finfo(dtype).smallest_normal / 2]).to(dtype)
    storage[:, -1] = 0
    return storage


def bits(values: torch.Tensor) -> torch.Tensor:
    return values.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()])


def carry_out(exchange: Exchange, drawer: Drawer, step: int, num_rows: int = 1) -> list[int]:
    return exchange(exchange.prepare(make_plan(drawer.draw(step), exchange.comm.rank, num_rows, SIZE)))


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_exchange_equals_the_slow_reference_bit_for_bit(mpi_ranks, comm):
    for staged in (False, True):
        for dtype in DTYPES:
            for p, schedule, permutation, topology in [
                (0.0, "constant", "uniform", "global"),
                (0.05, "decreasing", "uniform", "global"),
                (0.5, "increasing", "uniform", "global"),
                (0.5, "constant", "cyclic", "global"),
                (1.0, "constant", "uniform", "global"),
                (0.5, "constant", "uniform", "node"),
                (0.5, "constant", "cyclic", "ring"),
            ]:
                drawer = drawer_of(mpi_ranks, p, schedule, permutation, topology)
                everyone = initial_storage(mpi_ranks, dtype)
                mine = everyone[comm.rank].clone()
                exchange = Exchange(comm, mine, drawer.most_expected_moved, staged)
                address = mine.data_ptr()
                for step in range(1, 6):
                    assert carry_out(exchange, drawer, step) == []
                    everyone = shuffle_members(everyone, drawer.draw(step))
                    assert torch.equal(bits(mine), bits(everyone[comm.rank]))
                assert mine.data_ptr() == address


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_shuffle_keeps_the_set_of_values_at_every_position_in_every_topology(mpi_ranks, comm):
    for topology in ("global", "node", "ring"):
        drawer = drawer_of(mpi_ranks, 0.4, topology=topology)
        mine = torch.randn(SIZE + 1, generator=torch.Generator().manual_seed(comm.rank))
        mine[-1] = 0
        before = np.sort(comm.allgather(mine.numpy().copy()), axis=0)
        exchange = Exchange(comm, mine, drawer.most_expected_moved)
        for step in range(20):
            carry_out(exchange, drawer, step)
        assert np.array_equal(before, np.sort(comm.allgather(mine.numpy().copy()), axis=0))


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_optimizer_state_moves_with_its_values_in_the_same_collective(mpi_ranks, comm):
    drawer = drawer_of(mpi_ranks, 0.3)
    everyone = initial_storage(mpi_ranks, torch.float32, num_rows=3)
    mine = everyone[comm.rank].clone()
    carry_out(Exchange(comm, mine, 3 * drawer.most_expected_moved), drawer, 1, num_rows=3)
    for row in range(3):
        part = slice(row * SIZE, (row + 1) * SIZE)
        expected = shuffle_members(everyone[:, part].contiguous(), drawer.draw(1))[comm.rank]
        assert torch.equal(bits(mine[part]), bits(expected))


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_bytes_sent_are_the_moved_values_and_a_flag_for_each_peer(mpi_ranks, comm):
    """Counted where MPI is called: what is handed to Alltoallv, and that nothing else is."""
    for dtype in DTYPES:
        drawer = drawer_of(mpi_ranks, 0.3)
        counting = CountingComm(comm)
        exchange = Exchange(counting, torch.zeros(SIZE + 1, dtype=dtype), drawer.most_expected_moved)
        expected = []
        for step in range(10):
            carry_out(exchange, drawer, step)
            expected.append((make_plan(drawer.draw(step), comm.rank).num_moved + mpi_ranks - 1) * dtype.itemsize)
        assert counting.calls == [(sent, 0) for sent in expected]
        assert dtype.itemsize <= 8


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_buffers_are_allocated_once_unless_a_draw_is_larger_than_they_are(mpi_ranks, comm):
    everyone = torch.stack([torch.arange(SIZE + 1, dtype=torch.float32) + 1000 * rank for rank in range(mpi_ranks)])
    everyone[:, -1] = 0
    mine = everyone[comm.rank].clone()
    drawer = drawer_of(mpi_ranks, 0.2)
    exchange = Exchange(comm, mine, drawer.most_expected_moved)
    addresses = set()
    for step in range(5):
        carry_out(exchange, drawer, step)
        everyone = shuffle_members(everyone, drawer.draw(step))
        addresses.add((exchange.send.data_ptr(), exchange.recv.data_ptr()))
    assert len(addresses) == 1
    everything = drawer_of(mpi_ranks, 1.0)  # far above what was expected
    carry_out(exchange, everything, 9)
    assert torch.equal(mine, shuffle_members(everyone, everything.draw(9))[comm.rank])


@pytest.mark.mpi(ranks=[2, 3, 4], timeout=120)
def test_a_sick_member_is_known_to_all_and_nobody_takes_its_values(mpi_ranks, comm):
    drawer = drawer_of(mpi_ranks, 0.5)
    for overlapped in (False, True):
        for dtype in DTYPES:
            for poison in (float("nan"), float("inf"), -float("inf")):
                mine = initial_storage(mpi_ranks, dtype)[comm.rank].clone()
                if comm.rank == 1:
                    mine[make_plan(drawer.draw(1), 1).send_positions[3]] = poison
                before = mine.clone()
                exchange = Exchange(comm, mine, drawer.most_expected_moved)
                if overlapped:
                    overlap = OverlappedExchange(exchange)
                    overlap.start(exchange.prepare(make_plan(drawer.draw(1), comm.rank)))
                    sick = overlap.finish()
                    overlap.close()
                else:
                    sick = carry_out(exchange, drawer, 1)
                assert sick == [1]
                assert torch.equal(bits(mine), bits(before))


@pytest.mark.mpi(ranks=[3, 4], timeout=120)
def test_the_others_go_on_shuffling_when_a_member_is_absent(mpi_ranks, comm):
    drawer = drawer_of(mpi_ranks, 0.5)
    everyone = initial_storage(mpi_ranks, torch.float32)
    everyone[1] = float("nan")
    mine = everyone[comm.rank].clone()
    exchange = Exchange(comm, mine, drawer.most_expected_moved)
    for step in range(1, 6):
        draw = drawer.draw(step, absent=[1])
        assert exchange(exchange.prepare(make_plan(draw, comm.rank))) == []
        everyone = shuffle_members(everyone, draw)
        assert torch.equal(bits(mine), bits(everyone[comm.rank]))
    assert bool(torch.isfinite(mine).all()) == (comm.rank != 1)


@pytest.mark.mpi(ranks=[2, 3, 4], timeout=120)
def test_an_overlapped_exchange_without_an_update_is_the_synchronous_one_a_step_later_bit_for_bit(mpi_ranks, comm):
    for dtype in DTYPES:
        drawer = drawer_of(mpi_ranks, 0.4)
        everyone = initial_storage(mpi_ranks, dtype)
        mine = everyone[comm.rank].clone()
        exchange = Exchange(comm.Dup(), mine, drawer.most_expected_moved)
        overlap = OverlappedExchange(exchange)
        for step in range(1, 8):
            if overlap.is_pending:
                overlap.finish()
            assert torch.equal(bits(mine), bits(everyone[comm.rank]))
            overlap.start(exchange.prepare(make_plan(drawer.draw(step), comm.rank)))
            everyone = shuffle_members(everyone, drawer.draw(step))
        overlap.finish()
        assert torch.equal(bits(mine), bits(everyone[comm.rank]))
        overlap.close()


@pytest.mark.mpi(ranks=[2, 3, 4], timeout=120)
def test_an_overlapped_exchange_keeps_each_local_update_and_the_mean_of_the_members(mpi_ranks, comm):
    drawer = drawer_of(mpi_ranks, 0.4)
    everyone = initial_storage(mpi_ranks, torch.float64)
    mine = everyone[comm.rank].clone()
    update = torch.randn(SIZE, generator=torch.Generator().manual_seed(7 + comm.rank), dtype=torch.float64)
    exchange = Exchange(comm.Dup(), mine, drawer.most_expected_moved)
    overlap = OverlappedExchange(exchange)
    overlap.start(exchange.prepare(make_plan(drawer.draw(1), comm.rank)))
    mine[:-1] += update  # of the next step, while values travel
    overlap.finish()
    overlap.close()
    shuffled = shuffle_members(everyone, drawer.draw(1))[comm.rank]
    assert torch.allclose(mine[:-1], shuffled[:-1] + update, rtol=1e-14, atol=1e-14)
    mean = np.mean(comm.allgather(mine[:-1].numpy()), axis=0)
    expected = everyone[:, :-1].mean(dim=0).numpy() + np.mean(comm.allgather(update.numpy()), axis=0)
    assert np.allclose(mean, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.mpi(ranks=[2, 4], timeout=120)
def test_an_overlapped_exchange_under_way_can_be_saved_and_finished_by_another_process(mpi_ranks, comm):
    drawer = drawer_of(mpi_ranks, 0.4)
    everyone = initial_storage(mpi_ranks, torch.float32)
    results = []
    for restart in (False, True):
        mine = everyone[comm.rank].clone()
        exchange = Exchange(comm.Dup(), mine, drawer.most_expected_moved)
        overlap = OverlappedExchange(exchange)
        transfer = exchange.prepare(make_plan(drawer.draw(1), comm.rank))
        overlap.start(transfer)
        if restart:
            state = {name: tensor.clone() for name, tensor in overlap.state().items()}
            overlap.finish()
            mine.copy_(everyone[comm.rank])
            exchange = Exchange(comm.Dup(), mine, 0.0)
            overlap = OverlappedExchange(exchange)
            overlap.load_state(transfer, state)
        mine[:-1] *= 1.25
        assert overlap.finish() == []
        results.append(mine.clone())
    assert torch.equal(bits(results[0]), bits(results[1]))


def test_values_that_are_not_flat_are_refused():
    with pytest.raises(ValueError, match="flat and contiguous"):
        Exchange(None, torch.zeros(4, 4), 1.0)
    with pytest.raises(ValueError, match="flat and contiguous"):
        Exchange(None, torch.zeros(8)[::2], 1.0)
