"""Both reducers do the same: sums, means and broadcasts over each scope, for every way of sharing out the ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wash_hpc.parallel.reducer import Scope, reducer_class
from wash_hpc.parallel.world import World, start_mpi


def value_of(rank: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(rank))
    return (values * 100).to(dtype)


def scopes(world: World) -> dict[Scope, list[int]]:
    layout = world.layout
    return {
        Scope.MEMBER: layout.ranks_of_member(layout.member),
        Scope.MEMBERS: layout.ranks_of_replica(layout.replica),
        Scope.WORLD: list(range(layout.size)),
    }


def check_both(world: World) -> None:
    for kind in ("mpi", "horovod"):
        check_everything(world, kind)


def check_everything(world: World, kind: str) -> None:
    reducer = reducer_class(kind)(world)
    rank = world.layout.rank
    for scope, ranks in scopes(world).items():
        for dtype in (torch.float32, torch.float64, torch.int64):
            total = reducer.sum_(value_of(rank, dtype), scope)
            expected = np.sum([value_of(r, dtype).double().numpy() for r in ranks], axis=0)
            assert np.allclose(total.double().numpy(), expected, rtol=1e-4, atol=1e-3)
            everyone = world.comm.allgather((ranks, total.numpy().tobytes()))
            assert all(raw == total.numpy().tobytes() for other, raw in everyone if other == ranks), "differs in bits"
        mean = reducer.mean_(value_of(rank), scope)
        assert np.allclose(mean.numpy(), np.mean([value_of(r).numpy() for r in ranks], axis=0), rtol=1e-4, atol=1e-3)
        for root, root_rank in enumerate(ranks):
            assert torch.equal(reducer.broadcast_(value_of(rank), scope, root=root), value_of(root_rank))
    pending = [value_of(rank) + number for number in range(5)]
    expected = np.mean([value_of(r).numpy() for r in scopes(world)[Scope.MEMBER]], axis=0)
    for _ in range(3):  # the same names again, as at every training step
        tensors = [tensor.clone() for tensor in pending]
        for number, tensor in enumerate(tensors):
            reducer.start_mean_(tensor, f"gradient {number}")
        reducer.finish()
        for number, tensor in enumerate(tensors):
            assert np.allclose(tensor.numpy(), expected + number, rtol=1e-4, atol=1e-3)
    reducer.close()


def check_gradients_alone_and_together(world: World, kind: str) -> None:
    """The order of a sum must not depend on what else is reduced meanwhile: a run would not repeat itself."""
    reducer = reducer_class(kind)(world)
    random = torch.Generator().manual_seed(world.layout.rank)
    gradients = [torch.randn(10 + 97 * number, generator=random) for number in range(40)]
    alone = [gradient.clone() for gradient in gradients]
    for number, tensor in enumerate(alone):
        reducer.start_mean_(tensor, f"gradient {number}")
        reducer.finish()
    for _ in range(3):
        together = [gradient.clone() for gradient in gradients]
        for number, tensor in enumerate(together):
            reducer.start_mean_(tensor, f"gradient {number}")
        reducer.finish()
        assert [number for number in range(40) if not torch.equal(together[number], alone[number])] == []
    reducer.close()


@pytest.mark.mpi(ranks=[3, 4], timeout=120)
def test_the_mean_of_a_gradient_is_the_same_whatever_is_reduced_with_it(mpi_ranks):
    world = World.open(start_mpi(), 1)
    for kind in ("mpi",) if torch.cuda.is_available() else ("mpi", "horovod"):  # on GPUs Horovod fuses
        check_gradients_alone_and_together(world, kind)


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_reductions_over_members_without_replicas(mpi_ranks):
    check_both(World.open(start_mpi(), mpi_ranks))


@pytest.mark.mpi(ranks=[2, 3, 4], timeout=120)
def test_reductions_over_the_replicas_of_a_single_member(mpi_ranks):
    check_both(World.open(start_mpi(), 1))


@pytest.mark.mpi(ranks=[4], timeout=120)
def test_reductions_over_two_members_of_two_replicas(mpi_ranks):
    check_both(World.open(start_mpi(), 2))
