"""Ranks and GPUs: who may share one, and what the doctor says of each. No GPU is needed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from wash_hpc.config import ParallelConfig
from wash_hpc.parallel.gpus import (
    Gpu,
    Place,
    View,
    describe_gpus,
    describe_shares,
    describe_views,
    find_fault,
    find_mps,
    find_unused_gpus,
)

GB = 10**9


def places(*gpus: str | None, host: str = "node07") -> list[Place]:
    return [Place(host, gpu) for gpu in gpus]


def said(places: list[Place], **parallel) -> str | None:
    fault = find_fault(places, ParallelConfig(**parallel))
    return None if fault is None else str(fault)


@pytest.mark.parametrize("share_gpus", [False, True])
@pytest.mark.parametrize("reducer", ["horovod", "mpi"])
def test_ranks_with_a_gpu_each_or_none_at_all_are_well(reducer, share_gpus):
    for ranks in (places("a"), places("a", "b"), [*places("a"), *places("b", host="node08")], places(None, None)):
        assert said(ranks, reducer=reducer, share_gpus=share_gpus) is None


@pytest.mark.parametrize("share_gpus", [False, True])
def test_ranks_without_a_gpu_among_others_are_named(share_gpus):
    ranks = places("a", None, "a", None)
    assert said(ranks, reducer="mpi", share_gpus=share_gpus) == "parallel.device=auto: no GPU for rank 1, 3"


def test_more_ranks_than_gpus_are_refused_with_host_numbers_and_key():
    ranks = [*places("a", "b", "c", host="node06"), *places("d", "e", "d", "e", "d")]
    assert said(ranks, reducer="mpi") == (
        "parallel.share_gpus=false: on host node07 5 ranks have 2 GPUs; "
        "start one rank a GPU, or let them share by parallel.share_gpus=true"
    )
    assert "2 ranks have 1 GPU; start one rank a GPU, or let them share" in str(said(places("a", "a"), reducer="mpi"))


def test_who_would_be_refused_by_nccl_next_is_told_at_once():
    assert str(said(places("a", "a"))).endswith("parallel.share_gpus=true parallel.reducer=mpi")


def test_ranks_share_gpus_where_that_is_meant_and_nccl_is_not_asked():
    ranks = places("a", "b", "a", "b")
    assert said(ranks, share_gpus=True, reducer="mpi") is None
    assert said(ranks, share_gpus=True, reducer="horovod") == (
        "parallel.reducer=horovod: several ranks share a GPU, which NCCL refuses; use mpi"
    )


def gpu(uuid: str, free: float, mps: str | None = None, host: str = "node07") -> Gpu:
    return Gpu(host, uuid, 80 * GB, round(free * GB), mps)


def test_each_gpu_has_a_line_with_its_memory_its_ranks_and_mps():
    assert describe_gpus([gpu("0123456789", 79.5), gpu("b", 80, "/pipes")], places("0123456789")) == [
        "node07 01234567: 80.0 GB, 79.5 GB free, 1 rank of this job, no MPS",
        "node07 b: 80.0 GB, 80.0 GB free, 0 ranks of this job, MPS listens in /pipes",
    ]


def test_a_gpu_that_several_ranks_saw_is_said_once_with_the_most_that_was_free():
    lines = describe_gpus([gpu("a", 78, "/pipes"), gpu("b", 80), gpu("a", 79, "/pipes")], places("a", "b", "a"))
    assert lines == [
        "node07 a: 80.0 GB, 79.0 GB free, 2 ranks of this job, MPS listens in /pipes",
        "node07 b: 80.0 GB, 80.0 GB free, 1 rank of this job, no MPS",
    ]


def test_ranks_that_share_a_gpu_without_mps_and_a_gpu_that_is_full_are_warned_of():
    line, first, second = describe_gpus([gpu("a", 7.9)], places("a", "a", "a"))
    assert line.endswith("3 ranks of this job, no MPS")
    assert first.startswith("warning: 3 ranks share it without MPS")
    assert second.startswith("warning: less than 10 % of its memory is free")
    assert len(describe_gpus([gpu("a", 8.1, "/pipes")], places("a", "a"))) == 1


def test_mps_is_there_where_its_folder_has_a_control_socket(tmp_path, monkeypatch):
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    assert find_mps(environment) is None
    (tmp_path / "control").write_text("")
    assert find_mps(environment) is None
    (tmp_path / "control").unlink()
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 107 characters
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("control")
        assert find_mps(environment) == str(tmp_path)
    Path("control").unlink()
    os.mkfifo("control")
    assert find_mps(environment) == str(tmp_path)


def test_without_a_folder_in_the_environment_mps_is_looked_for_in_its_default_place():
    assert find_mps({}) in {None, "/tmp/nvidia-mps"}


def views(*gpus: str | None, host: str = "node07", **numbers: int) -> list[View]:
    return [View(place, **numbers) for place in places(*gpus, host=host)]


def test_ranks_on_the_cpu_are_well_where_nobody_knows_of_a_gpu():
    assert find_unused_gpus(views(None, None)) == []
    assert find_unused_gpus(views("a", "b", num_given=2, num_present=2)) == []
    assert describe_views(views(None)) == []


def test_ranks_on_the_cpu_are_warned_of_where_slurm_gave_gpus_or_the_host_has_some():
    assert find_unused_gpus(views(None, None, num_given=2, num_present=4)) == [
        "no GPU for ranks 0, 1 on node07, and Slurm gave the job 2 there: is torch built for CUDA, does a container "
        "show them?"
    ]
    ranks = [*views("a", host="node06"), *views(None, num_present=4)]
    said = "no GPU for rank 1 on node07, and the host has 4: did the job ask for any, is torch built for CUDA?"
    assert find_unused_gpus(ranks) == [said]
    assert describe_views(ranks)[-1] == f"warning: {said}"


def test_a_rank_without_a_gpu_beside_ranks_that_have_one_is_named():
    assert find_unused_gpus(views("a", None, "b")) == [
        "no GPU for rank 1 on node07, and the others there have one: does each task see the GPUs of its node?"
    ]


def test_one_gpu_each_is_said_and_so_is_sharing():
    assert describe_shares(places("a", "b")) == ["each rank has a GPU of its own"]
    assert describe_shares(places("a", "b", "a")) == ["up to 2 ranks share a GPU"]
    assert describe_shares(places("a")) == describe_shares(places("a", None)) == describe_shares([]) == []
