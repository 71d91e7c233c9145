"""Ten exchanges on real ranks give what they have always given, synchronous and overlapped."""

from __future__ import annotations

import pytest

from tests.golden_files import CASES, NUM_STEPS, SIZE, check_against_golden, initial_values, row_name
from wash_hpc.parallel.exchange import Exchange
from wash_hpc.parallel.overlap import OverlappedExchange
from wash_hpc.shuffle.plan import make_plan


@pytest.mark.mpi(ranks=[3, 4], timeout=120)
def test_ten_exchanges_are_those_of_the_golden_file(mpi_ranks, comm):
    for case in [case for case in CASES if case.num_members == mpi_ranks]:
        for overlapped in (False, True):
            mine, drawer = initial_values(mpi_ranks)[comm.rank], case.drawer()
            exchange = Exchange(comm.Dup(), mine, drawer.most_expected_moved)
            overlap = OverlappedExchange(exchange)
            rows = {}
            for step in range(1, NUM_STEPS + 1):
                transfer = exchange.prepare(make_plan(drawer.draw(step, case.absent(step)), comm.rank))
                if overlapped:
                    overlap.start(transfer)
                    assert overlap.finish() == []
                else:
                    assert exchange(transfer) == []
                for member, values in enumerate(comm.allgather(mine[:SIZE].tolist())):
                    rows[row_name(step, member)] = [int(value) for value in values]
            overlap.close()
            assert mine[SIZE] == 0
            if comm.rank == 0:
                check_against_golden(f"exchange_{case.name}", rows)
            comm.Barrier()
