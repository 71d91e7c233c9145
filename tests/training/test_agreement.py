"""Ranks that are not alike: each difference is said with its ranks before anything is written, on every rank."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support import TINY, mpirun
from tests.training.test_bad_input import refuse
from wash_hpc.agreement import describe_differences, describe_processor, describe_software
from wash_hpc.errors import WorldError


@pytest.mark.parametrize(
    ("values", "hosts", "says"),
    [
        ("aaaa", "xxyy", ""),
        ("aabb", "xxxx", "ranks 2, 3: torch b, the others a"),
        ("bbab", "wxyz", "rank 2 (y): torch a, the others b"),
        ("aaabb", "xxxyy", "ranks 3, 4 (y): torch b, the others a"),
        ("ab", "xy", "rank 1 (y): torch b, the other a"),
        ("abac", "xyzw", "rank 1 (y): torch b; rank 3 (w): torch c, the others a"),
        ("a-a", "xyx", "rank 1 (y): torch none, the others a"),
    ],
)
def test_a_difference_is_said_with_its_ranks_their_hosts_and_what_most_have(values, hosts, says):
    of_ranks = [{"same": "s"} | ({} if value == "-" else {"torch": value}) for value in values]
    assert describe_differences(of_ranks, list(hosts)) == says


def test_of_many_differences_the_first_are_said_and_the_others_counted():
    of_ranks = [{f"parameter {number}": value for number in range(9)} for value in ("a", "a", "b")]
    said = describe_differences(of_ranks, ["host"] * 3)
    assert said.startswith("rank 2: parameter 0 b, the others a; rank 2: parameter 1 b")
    assert said.endswith("; and 6 more")


def test_what_is_compared_has_every_version_and_the_processor():
    assert {"Python", "torch", "numpy", "wash_hpc", "wash_hpc's code", "mpi4py", "MPI library"} <= set(
        describe_software()
    )
    assert all(describe_software().values())
    assert torch.backends.cpu.get_cpu_capability() in describe_processor(torch.device("cpu"))["processor"]


@pytest.mark.mpi(ranks=[3], timeout=400)
def test_what_differs_is_refused_by_train_evaluate_and_soup_and_a_processor_is_noted(
    mpi_ranks, comm, tmp_path, monkeypatch, capsys
):
    """A rank is given what another host would have; everything else is real."""
    from wash_hpc import agreement, train
    from wash_hpc.finished import evaluate_run, make_soup

    folder = Path(comm.bcast(str(tmp_path)))
    monkeypatch.setattr(agreement, "_processor_name", lambda: "a slower one" if comm.rank == 2 else "a fast one")
    for members, says in ((1, "replicas of one member may drift"), (3, "this run is repeated bit for bit only where")):
        shared = [f"run.dir={folder}", f"run.name=noted-{members}", f"ensemble.members={members}"]
        more = ["parallel.reducer=mpi", "train.steps=2", "data.batch_size=9", "log.progress=lines"]
        train.train(None, [*TINY, *shared, *more])
        said = capsys.readouterr().out
        if comm.rank == 0:
            with_what = torch.backends.cpu.get_cpu_capability()
            assert f"rank 2: processor a slower one with {with_what}, the others a fast one with" in said
            assert f"they may round otherwise, so that {says}" in said
    monkeypatch.undo()

    commands = [
        lambda: evaluate_run(folder / "noted-3", [], "test", greedy=False, as_json=True),
        lambda: make_soup(folder / "noted-3", [], "uniform", folder / "soup.safetensors"),
    ]
    for rank, target, name, value, says in [
        (2, torch, "__version__", "2.10.0", rf"rank 2: torch 2\.10\.0, the others {torch.__version__.split('+')[0]}"),
        (0, agreement, "mpi_library", lambda: "MPICH 4.2", r"rank 0: MPI library MPICH 4\.2, the others Open MPI"),
        (1, agreement, "_digest_of_package", lambda: "other", "rank 1: wash_hpc's code other, the others "),
        (1, agreement.platform, "python_version", lambda: "3.12.0", r"rank 1: Python 3\.12\.0, the others 3\.11"),
    ]:
        if comm.rank == rank:
            monkeypatch.setattr(target, name, value)
        refuse(tmp_path, comm, [], f"^the ranks of this job are not alike: {says}.*; expected the same on all of them$")
        for command in commands:
            with pytest.raises(WorldError, match=says) as raised:
                command()
            assert raised.value.agreed
        monkeypatch.undo()
    assert not (folder / "soup.safetensors").exists()

    if comm.rank == 1:
        torch.set_float32_matmul_precision("high")
    refuse(tmp_path, comm, [], "rank 1: torch's precision of products high, the others highest")
    torch.set_float32_matmul_precision("highest")

    def on_rank_1(config, *given):
        changed = replace(config, optimizer=replace(config.optimizer, lr=0.5)) if comm.rank == 1 else config
        return agreement.require_alike(changed, *given)

    monkeypatch.setattr(train, "require_alike", on_rank_1)
    refuse(tmp_path, comm, [], r"rank 1: optimizer\.lr 0\.5, the others 0\.05; expected")


OWN = """
import sys
import numpy as np
from torch import nn
import wash_hpc.data, wash_hpc.methods, wash_hpc.models
from wash_hpc.__main__ import main
from wash_hpc.data.arrays import ArraySet, Images

@wash_hpc.methods.register("mine")
class Mine(wash_hpc.methods.Method):
    def after_step(self, step):
        self.flat.values.mul_({factor})

@wash_hpc.models.register("net")
def net(image_shape, num_classes, width):  # torch's own class: the function's file counts
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

@wash_hpc.data.register("zeros")
def zeros(config):
    images = Images(np.zeros((64, 1, 8, 8), np.uint8), np.arange(64) % 2)
    return ArraySet(images, None, images, 2, (0.5,), (0.5,))

sys.exit(main())
"""


def test_a_method_model_or_data_set_of_ones_own_that_has_another_source_on_some_ranks_is_refused(tmp_path):
    """Two programs in one job: as one host's copy of the file would be."""
    files = []
    for factor in ("1.0", "0.5"):
        file = tmp_path / f"of_{factor}" / "mine.py"
        file.parent.mkdir()
        file.write_text(OWN.replace("{factor}", factor))
        files.append(file)
    config = tmp_path / "c.yaml"
    config.write_text("{}\n")
    train = ["train", str(config), *TINY, f"run.dir={tmp_path}/runs", "run.name=mine", "method.name=mine"]
    train += ["model.name=net", "data.name=zeros"]
    train.remove("method.p=0.3")
    python = [sys.executable, str(files[0]), *train], [sys.executable, str(files[1]), *train]
    done = mpirun(2, *python[0], ":", "-n", "1", *python[1])
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("wash_hpc: error: ") == 1
    assert "the ranks of this job are not alike: rank 2: the source of method mine " in done.stderr
    assert "rank 2: the source of what builds model net " in done.stderr
    assert "rank 2: the source of data zeros " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
