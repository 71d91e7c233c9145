"""Every method on real ranks against its slow twin in one process, and what it sends against its formula."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.serial import train_serially
from tests.support import TINY, method_context, tiny_config
from wash_hpc.config import Config
from wash_hpc.data import open_source
from wash_hpc.data.source import Shard
from wash_hpc.ensemble.flat import get_statistics
from wash_hpc.ensemble.repair import num_hidden_channels
from wash_hpc.errors import HealthError
from wash_hpc.member import Member
from wash_hpc.methods import make_method
from wash_hpc.parallel.link import Link
from wash_hpc.parallel.mpi_reducer import MPIReducer
from wash_hpc.parallel.reducer import reducer_class
from wash_hpc.parallel.world import World, start_mpi
from wash_hpc.predict import predict, read_facts
from wash_hpc.storage.summary import read_summary
from wash_hpc.storage.weights import member_file
from wash_hpc.train import make_initial_model, train

SAME = "ensemble.same_init=true"  # of what averages, so that a rounding does not grow to another network

# By name: the options, and whether values only move, so that any number of ranks gives the same bits.
METHODS = {
    "independent": (["method.name=independent"], True),
    "wash": (["method.p=0.3", "method.every=2", "method.start=1"], True),
    "wash_opt": (["method.p=0.3", "method.optimizer_state=true", "method.schedule=increasing"], True),
    "wash_lr": (["method.p=0.2", "method.p_schedule=lr"], True),
    "wash_cosine": (["method.p=0.2", "method.p_schedule=cosine"], True),
    "wash_linear": (["method.p=0.2", "method.p_schedule=linear", "method.schedule=constant"], True),
    "wash_ring": (["method.p=0.2", "method.topology=ring"], True),
    "papa": (["method.name=papa", "method.every=2", "method.alpha=0.7"], False),
    "papa_all": (["method.name=papa_all", "method.every=1"], False),
    "papa_all_plain": (["method.name=papa_all", "method.every=1", "method.repair=false"], False),
    "sparta": (["method.name=sparta", "method.p=0.2"], False),
    "sparta_lr": (["method.name=sparta", "method.p=0.2", "method.p_schedule=lr", "method.every=2"], False),
    "sparta_partitioned": (["method.name=sparta", "method.p=0.3", "method.draw=partitioned", "method.start=2"], False),
    "local_sgd": (["method.name=local_sgd", "method.every=3"], False),
    "diloco": (["method.name=diloco", "method.every=2"], False),
    "diloco_late": (["method.name=diloco", "method.every=2", "method.start=3", "method.outer_momentum=0"], False),
    "wash_then_papa": (["method.p=0.3", "method.stop=4", "method.then=[{name: papa, start: 4, every: 2}]"], False),
    "wash_twice": (["method.p=0.1", "method.then=[{name: wash, p: 0.05, schedule: constant}]"], True),
    "wash_and_sparta": (
        ["method.p=0.1", "method.then=[{name: sparta, p: 0.05}, {name: sparta, p: 0.05, draw: partitioned}]"],
        False,
    ),
    "sparta_and_diloco": (["method.name=sparta", "method.p=0.1", "method.then=[{name: diloco, every: 4}]"], False),
}


def run_on_ranks(folder: Path, name: str, *overrides: str) -> Path:
    """A run of ten steps, six an epoch, on the ranks of this process."""
    # Statistics from 48 images in batches of 4: REPAIR's batches do not depend on the number of ranks.
    train(None, [*TINY, f"run.dir={folder}", f"run.name={name}", *overrides, *common_keys()])
    return folder / name


def common_keys() -> list[str]:
    return ["train.steps=10", "model.width=2", "evaluate.statistics_images=48", "evaluate.batch_size=4"]


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=420)
def test_every_method_equals_its_twin_that_holds_all_members_in_one_process(mpi_ranks, comm, tmp_path):
    folder = Path(comm.bcast(str(tmp_path)))
    for name in METHODS:
        compare_with_twin(folder, comm, name, "mlp", "mpi")


@pytest.mark.mpi(ranks=[2, 3], timeout=300)
def test_methods_that_touch_statistics_equal_their_twins_with_them(mpi_ranks, comm, tmp_path):
    folder = Path(comm.bcast(str(tmp_path)))
    for name in ("wash_opt", "papa", "papa_all", "papa_all_plain", "local_sgd", "wash_then_papa"):
        compare_with_twin(folder, comm, name, "resnet_small", "mpi")


@pytest.mark.mpi(ranks=[4], timeout=300)
def test_methods_that_average_equal_their_twins_when_horovod_reduces(mpi_ranks, comm, tmp_path):
    folder = Path(comm.bcast(str(tmp_path)))
    for name in ("wash", "papa", "papa_all", "sparta", "local_sgd", "diloco"):
        compare_with_twin(folder, comm, name, "mlp", "horovod")


def compare_with_twin(folder: Path, comm, name: str, model: str, reducer: str) -> None:
    """A run on the ranks of this process, one of all members on the root, and what a member sent beside its formula."""
    options, moves_only = METHODS[name]
    keys = [f"model.name={model}", f"parallel.reducer={reducer}", *options]
    keys += [] if moves_only else [SAME]
    run = run_on_ranks(folder, name, *keys)
    config = tiny_config(*keys, *common_keys())
    # Only there: ranks that wait leave the cores to it.
    twins = [member.model.state_dict() for member in train_serially(config, comm.size)] if comm.rank == 0 else None
    twin = comm.scatter(twins)  # by now the root has written the summary
    trained = load_file(member_file(run, comm.rank))
    for key, expected in twin.items():
        if key.endswith("num_batches_tracked"):
            continue  # REPAIR's passes count, too, and each rank makes a part of them
        if moves_only:
            assert torch.equal(trained[key], expected), f"{name}: {key}"
        else:
            assert torch.allclose(trained[key], expected, rtol=1e-3, atol=1e-5), f"{name}: {key}"
    require_bytes_of_formula(run, name, config, comm.size)


@pytest.mark.mpi(ranks=[2, 3], timeout=120)
def test_data_parallel_training_equals_one_process_with_the_whole_batch(mpi_ranks, comm, tmp_path):
    folder = Path(comm.bcast(str(tmp_path)))
    keys = ["method.name=data_parallel", "model.name=mlp", "parallel.reducer=mpi", "data.batch_size=12"]
    run = run_on_ranks(folder, "data_parallel", *keys)
    comm.Barrier()  # the root has written the summary
    config = tiny_config(*keys, *common_keys())
    trained = load_file(member_file(run, 0))
    for key, expected in train_serially(config, 1)[0].model.state_dict().items():
        assert torch.allclose(trained[key], expected, rtol=1e-3, atol=1e-5), key
    require_bytes_of_formula(run, "data_parallel", config, comm.size)


def require_bytes_of_formula(run: Path, name: str, config: Config, n: int) -> None:
    """METHOD by METHOD: scalars a member sends in ten steps, six of them an epoch; N members, d parameters."""
    source = open_source(config, torch.device("cpu"))
    model = make_initial_model(config, source, 0, torch.device("cpu"))
    d = sum(parameter.numel() for parameter in model.parameters())
    s, c = get_statistics(model).numel(), num_hidden_channels(model)
    ring = 2 * (n - 1) / n
    scalars, p, exchanges = {
        "independent": (0.0, 1.0, 0),
        "papa": (ring * (d + s), 1.0, 5),
        "papa_all": (ring * (d + s + 3 * c), 1.0, 1),
        "papa_all_plain": (ring * (d + s), 1.0, 1),
        "local_sgd": (ring * d, 1.0, 3),
        "diloco": (ring * d, 1.0, 5 + 1),
        "data_parallel": (ring * d, 1.0, 10),
        "sparta": (ring * d, 0.2, 10),
        "sparta_partitioned": (ring * d, 1 / 4, 8),
    }.get(name, (None, 0.0, 0))
    if scalars is None:  # of WASH, on its own, in test_exchange
        return
    expected = 4 * scalars * p * exchanges
    # Four standard deviations of a draw, and each average rounds to whole scalars.
    allowed = 4 * 4 * ring * (p * (1 - p) * d * exchanges) ** 0.5 + 4 * 10 * 4
    found = read_summary(run).bytes_sent_per_member
    assert found == pytest.approx(expected, abs=allowed), name
    predicted = predict(read_facts(run / "config.yaml", [], n), Link(1e-6, 1e9)).bytes_sent_per_member
    assert predicted == pytest.approx(expected, abs=200 if name == "sparta_partitioned" else 1e-3), name


@pytest.mark.mpi(ranks=[4], timeout=300)
def test_replicas_of_a_member_stay_equal_bit_for_bit_under_every_method(mpi_ranks):
    world = World.open(start_mpi(), 2)
    for kind in ("mpi", "horovod"):
        couple_replicas(world, kind)


def couple_replicas(world: World, kind: str) -> None:
    reducer, layout, comm = reducer_class(kind)(world), world.layout, world.comm
    for name, (options, _) in METHODS.items():
        config = tiny_config(*options, "evaluate.batch_size=4")
        source = open_source(config, torch.device("cpu"))
        model = make_initial_model(config, source, layout.member, torch.device("cpu"))
        member = Member(model, config, layout.member, layout.replica, 8, reducer)
        method = make_method(method_context(config, world, member.flat, reducer, model, source))
        replica = Shard(layout.replica, 2)
        for step, batch in enumerate(islice(source.train(layout.member, replica, 8, 0), 8)):
            member.step(batch, step)
            before = comm.allgather(get_statistics(model))
            method.after_step(step + 1)
            if name == "papa_all_plain" and step == 3:  # the end of an epoch
                mean = torch.stack(before).mean(dim=0)
                assert torch.allclose(get_statistics(model), mean, rtol=1e-5, atol=1e-6)
        method.finish()
        kept = [member.flat.rows, *([get_statistics(model)] if name == "papa" else [])]  # which acts on both, last
        digests = comm.allgather((layout.member, [tensor.numpy().tobytes() for tensor in kept]))
        assert all(raw == digests[comm.rank][1] for number, raw in digests if number == layout.member), name
    reducer.close()


@pytest.mark.mpi(ranks=[3], timeout=120)
def test_a_sick_member_infects_nobody_through_an_average_and_is_named(mpi_ranks, comm):
    world = World.open(start_mpi(), None)
    reducer = MPIReducer(world)
    source = open_source(tiny_config(), torch.device("cpu"))
    for name in ("papa", "papa_all", "sparta", "local_sgd", "diloco"):
        config = tiny_config(*METHODS[name][0], "method.every=1")
        model = make_initial_model(config, source, comm.rank, torch.device("cpu"))
        member = Member(model, config, comm.rank, 0, 8, reducer)
        method = make_method(method_context(config, world, member.flat, reducer, model, source))
        if comm.rank == 1:
            member.flat.values.fill_(float("nan"))
        with pytest.raises(HealthError, match="member 1: values that are not finite") as raised:
            method.after_step(4)
        assert raised.value.agreed
        assert bool(torch.isfinite(member.flat.values).all()) == (comm.rank != 1)
        method.finish()
