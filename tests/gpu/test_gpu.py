"""What only a GPU can show. Several ranks may share one, so these run on a single GPU; `make test-gpu` runs them all.

NCCL refuses two ranks on one GPU: with fewer GPUs than ranks the reducer is MPI's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.support import TINY, mpirun, tiny_config, train
from wash_hpc.config import load_config
from wash_hpc.data import open_source
from wash_hpc.data.regularize import regularize
from wash_hpc.data.source import Batch, Shard
from wash_hpc.parallel.exchange import Exchange
from wash_hpc.parallel.overlap import OverlappedExchange
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.probability import layer_probabilities
from wash_hpc.shuffle.reference import shuffle_members
from wash_hpc.storage.summary import read_summary

pytestmark = pytest.mark.gpu

CUDA = ["parallel.device=cuda"]


@pytest.mark.mpi(ranks=[1, 2, 4], timeout=180)
def test_exchange_staged_through_host_memory_equals_the_slow_reference(mpi_ranks, comm):
    device = torch.device("cuda", comm.rank % torch.cuda.device_count())
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        drawer, everyone = drawer_and_storage(mpi_ranks, dtype)
        mine = everyone[comm.rank].to(device)
        exchange = Exchange(comm, mine, drawer.most_expected_moved, staged=True)
        for step in range(5):
            draw = drawer.draw(step)
            assert exchange(exchange.prepare(make_plan(draw, comm.rank))) == []
            everyone = shuffle_members(everyone, draw)
            assert torch.equal(mine.cpu(), everyone[comm.rank])


@pytest.mark.mpi(ranks=[2, 4], timeout=180)
def test_an_overlapped_exchange_on_a_gpu_is_the_synchronous_one_a_step_later(mpi_ranks, comm):
    device = torch.device("cuda", comm.rank % torch.cuda.device_count())
    drawer, everyone = drawer_and_storage(mpi_ranks, torch.float32)
    mine = everyone[comm.rank].to(device)
    exchange = Exchange(comm.Dup(), mine, drawer.most_expected_moved, staged=True)
    overlap = OverlappedExchange(exchange)
    busy = torch.randn(2048, 2048, device=device)
    for step in range(6):
        if overlap.is_pending:
            assert overlap.finish() == []
        assert torch.equal(mine.cpu(), everyone[comm.rank])
        overlap.start(exchange.prepare(make_plan(drawer.draw(step), comm.rank)))
        busy = busy @ busy / 2048  # the training stream has work of its own meanwhile
        everyone = shuffle_members(everyone, drawer.draw(step))
    overlap.finish()
    overlap.close()
    assert torch.equal(mine.cpu(), everyone[comm.rank])


@pytest.mark.mpi(ranks=[2], timeout=180)
def test_a_sick_member_on_a_gpu_is_known_to_all_and_nobody_takes_its_values(mpi_ranks, comm):
    drawer, everyone = drawer_and_storage(mpi_ranks, torch.float32)
    mine = everyone[comm.rank].to(torch.device("cuda", comm.rank % torch.cuda.device_count()))
    if comm.rank == 1:
        mine[make_plan(drawer.draw(1), 1).send_positions[3]] = float("nan")
    before = mine.clone()
    exchange = Exchange(comm, mine, drawer.most_expected_moved, staged=True)
    assert exchange(exchange.prepare(make_plan(drawer.draw(1), comm.rank))) == [1]
    assert torch.equal(mine.view(torch.int32), before.view(torch.int32))


def drawer_and_storage(num_members: int, dtype: torch.dtype) -> tuple[Drawer, torch.Tensor]:
    """A drawer over 2000 values, and [M, 2001] those of all members with the exchange's own element."""
    drawer = Drawer(5, num_members, [700, 1300], layer_probabilities("constant", 0.3, 2))
    storage = torch.randn(num_members, 2001, generator=torch.Generator().manual_seed(0)).to(dtype)
    storage[:, -1] = 0
    return drawer, storage


def test_the_exchange_is_timed_beside_its_floor_on_a_gpu():
    """Leaves the figures in build/; ranks share the GPU where there are fewer GPUs than ranks."""
    command = [sys.executable, "tools/bench_exchange.py", "--device", "cuda", "--members", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    Path("build").mkdir(exist_ok=True)
    Path("build/bench_exchange_gpu.json").write_text(done.stdout)
    assert json.loads(done.stdout)["critical_path_over_floor"] > 0


def test_auto_says_whether_exchanges_go_through_gpu_or_host_memory(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text("{}\n")
    where = [f"run.dir={tmp_path}", "run.name=auto", "parallel.reducer=mpi", "log.progress=lines"]
    command = [sys.executable, "-m", "wash_hpc", "train", str(config), *TINY, *CUDA, *where]
    done = mpirun(2, *command)
    assert done.returncode == 0, done.stderr
    assert "exchanges go through" in done.stdout + done.stderr


def test_device_buffers_pass_their_self_test_where_mpi_is_cuda_aware(tmp_path):
    """Set WASH_HPC_CUDA_AWARE_MPI=1 where MPI is CUDA-aware; elsewhere it may end the process, which is no test."""
    if os.environ.get("WASH_HPC_CUDA_AWARE_MPI") != "1":
        pytest.skip("WASH_HPC_CUDA_AWARE_MPI is not 1: this MPI is not said to be CUDA-aware")
    shared = [*CUDA, "parallel.reducer=mpi"]
    on = train(tmp_path, "on", 2, *shared, "parallel.device_buffers=on")
    off = train(tmp_path, "off", 2, *shared, "parallel.device_buffers=off")
    assert read_summary(on).bytes_sent_per_member == read_summary(off).bytes_sent_per_member


def test_regularised_batches_on_a_gpu_equal_those_on_the_cpu():
    config = tiny_config("train.mixup=0.5", "train.cutmix=1", "train.random_erasing=0.5")

    def batches(device: str) -> list[Batch]:
        source = open_source(config, torch.device(device))
        stream = source.train(0, Shard(), config.data.batch_size, 0)
        return list(islice(regularize(stream, config, 0, Shard(), 0, source.num_classes), 8))

    for here, there in zip(batches("cpu"), batches("cuda"), strict=True):
        assert here.shares is not None
        assert there.shares is not None
        torch.testing.assert_close(there.images.cpu(), here.images)
        assert torch.equal(there.shares.cpu(), here.shares)
        assert torch.equal(there.labels.cpu(), here.labels)


@pytest.mark.parametrize("reducer", ["horovod", "mpi"])
def test_a_run_on_one_gpu_finishes(tmp_path, reducer):
    run = train(tmp_path, "run", 1, *CUDA, f"parallel.reducer={reducer}", "train.precision=bf16")
    assert read_summary(run).steps == 8


def test_a_run_of_members_and_replicas_that_share_a_gpu_finishes(tmp_path):
    run = train(tmp_path, "run", 4, *CUDA, "ensemble.members=2", "parallel.reducer=mpi")
    assert read_summary(run).bytes_sent_per_member > 0


@pytest.mark.skipif(torch.cuda.device_count() < 4, reason="NCCL wants a GPU a rank: fewer than 4 GPUs here")
def test_a_run_of_members_and_replicas_reduces_by_nccl(tmp_path):
    run = train(tmp_path, "run", 4, *CUDA, "ensemble.members=2", "parallel.reducer=horovod")
    assert read_summary(run).num_replicas == 2


def test_dali_gives_the_same_images_on_the_gpu_as_on_the_cpu(tmp_path):
    folder = tmp_path / "digits"
    subprocess.run([sys.executable, "tools/make_dataset.py", "digits", str(folder)], check=True)
    shape = ["data.name=image_folder", f"data.path={folder}", "data.image_size=32", "data.resize=32"]
    config = load_config(None, shape)
    sources = [open_source(config, torch.device(kind)) for kind in ("cpu", "cuda")]
    for batches in (
        [source.evaluate("test", Shard(), 64) for source in sources],
        [source.train(0, Shard(), 32, 0) for source in sources],
    ):
        for _ in range(4):
            cpu, gpu = (next(each) for each in batches)
            assert cpu.labels.tolist() == gpu.labels.tolist()
            difference = (cpu.images - gpu.images.cpu()).abs().mean() * 0.225  # in units of the pixel range
            assert difference < 2 / 255


def test_doctor_finds_the_gpu_and_decodes_on_it():
    done = mpirun(1, "wash-hpc", "doctor")
    assert done.returncode == 0, done.stdout
    assert "GPU       ok" in done.stdout
    assert "on cpu and cuda" in done.stdout
