"""What only a GPU can show. Several ranks may share one, so these run on a single GPU; `make test-gpu` runs them all.

NCCL refuses two ranks on one GPU: with fewer GPUs than ranks the reducer is MPI's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.support import TINY, AloneReducer, equal_weights, mpirun, tiny_config, train
from wash_hpc import tune
from wash_hpc.clock import Stopwatch
from wash_hpc.config import load_config
from wash_hpc.data import open_source
from wash_hpc.data.folder import scan_splits
from wash_hpc.data.regularize import regularize
from wash_hpc.data.source import Batch, Shard, batch_positions
from wash_hpc.data.transfer import send
from wash_hpc.ensemble.flat import get_statistics, to_channels_last
from wash_hpc.errors import DataError
from wash_hpc.machine import machine_name, remembered_share
from wash_hpc.member import Member
from wash_hpc.models import build_model
from wash_hpc.parallel.exchange import Exchange
from wash_hpc.parallel.overlap import OverlappedExchange
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.probability import layer_probabilities
from wash_hpc.shuffle.reference import shuffle_members
from wash_hpc.storage.summary import read_summary

pytestmark = pytest.mark.gpu

CUDA = ["parallel.device=cuda"]
SHARED = [*CUDA, "parallel.share_gpus=true", "parallel.reducer=mpi"]


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
    where = [f"run.dir={tmp_path}", "run.name=auto", "log.progress=lines"]
    command = [sys.executable, "-m", "wash_hpc", "train", str(config), *TINY, *SHARED, *where]
    done = mpirun(2, *command)
    assert done.returncode == 0, done.stderr
    assert "exchanges go through" in done.stdout + done.stderr


def test_device_buffers_pass_their_self_test_where_mpi_is_cuda_aware(tmp_path):
    """Set WASH_HPC_CUDA_AWARE_MPI=1 where MPI is CUDA-aware; elsewhere it may end the process, which is no test."""
    if os.environ.get("WASH_HPC_CUDA_AWARE_MPI") != "1":
        pytest.skip("WASH_HPC_CUDA_AWARE_MPI is not 1: this MPI is not said to be CUDA-aware")
    exactly = [*SHARED, "run.deterministic=true"]
    on = train(tmp_path, "on", 2, *exactly, "parallel.device_buffers=on")
    off = train(tmp_path, "off", 2, *exactly, "parallel.device_buffers=off")
    assert equal_weights(on, off)
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


@pytest.mark.parametrize("name", ["synthetic", "text"])
def test_the_host_never_waits_for_the_gpu_while_it_makes_batches(tmp_path, name):
    (tmp_path / "text").write_bytes(bytes(range(256)) * 40)
    regularised = ["train.mixup=0.5", "train.cutmix=1", "train.random_erasing=0.5"]
    keys = [f"data.name={name}", f"data.path={tmp_path / 'text'}", *(regularised if name == "synthetic" else [])]
    config = tiny_config(*keys)
    device = torch.device("cuda", torch.cuda.current_device())
    source = open_source(config, device)
    stream = regularize(source.train(0, Shard(), config.data.batch_size, 0), config, 0, Shard(), 0, source.num_classes)
    next(stream)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(islice(stream, 12))
        batches += source.evaluate("test", Shard(), 16)
        batches += source.statistics(32, Shard(), 16)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(batch.images.device == device for batch in batches)


def test_numbers_that_are_sent_arrive_whole_whatever_becomes_of_their_memory():
    device = torch.device("cuda")
    busy = torch.randn(4096, 4096, device=device)
    sent = []
    for number in range(50):
        busy = busy @ busy / 4096  # the device is behind, so that copies have to wait
        values = torch.full((1000,), number)
        sent.append(send(values, device))
        values.fill_(-1)
    assert [tensor.unique().tolist() for tensor in sent] == [[number] for number in range(50)]


@pytest.mark.parametrize("reducer", ["horovod", "mpi"])
def test_a_run_on_one_gpu_finishes(tmp_path, reducer):
    run = train(tmp_path, "run", 1, *CUDA, f"parallel.reducer={reducer}", "train.precision=bf16")
    assert read_summary(run).steps == 8


def gpu_member(*overrides: str, model: str = "resnet_small") -> Member:
    config = tiny_config("optimizer.schedule=constant", "data.batch_size=16", *overrides)
    torch.manual_seed(0)
    network = build_model(model, (3, 16, 16), 4, 16)
    if config.train.channels_last:
        to_channels_last(network, torch.device("cuda"))
    return Member(network.cuda(), config, 0, 0, 50, AloneReducer())


def gpu_batch(step: int) -> Batch:
    random = torch.Generator().manual_seed(step)
    images = torch.randn(16, 3, 16, 16, generator=random)
    return Batch(images.cuda(), torch.randint(4, (16,), generator=random).cuda())


@pytest.fixture
def deterministic():
    """Kernels that give the same bits every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.usefixtures("deterministic")
def test_replayed_steps_equal_those_that_are_not_bit_for_bit(precision, optimizer, parts):
    keys = [f"train.precision={precision}", f"optimizer.name={optimizer}", f"train.accumulate={parts}"]
    replayed, plain = (gpu_member(*keys, f"train.cuda_graph={kind}") for kind in ("true", "false"))
    place = replayed.flat.storage.data_ptr()
    for step in range(12):  # the first three are the warm-up, the fourth is recorded
        replayed.step(gpu_batch(step), step)
        plain.step(gpu_batch(step), step)
        assert torch.equal(replayed.flat.rows, plain.flat.rows), step
    assert replayed.flat.storage.data_ptr() == place
    assert torch.equal(get_statistics(replayed.model), get_statistics(plain.model))
    assert replayed.read_progress() == plain.read_progress()


@pytest.mark.usefixtures("deterministic")
def test_a_shuffle_between_replayed_steps_is_seen_by_the_next():
    members = [gpu_member(f"train.cuda_graph={kind}") for kind in ("true", "false")]
    for step in range(8):
        for member in members:
            member.step(gpu_batch(step), step)
            member.flat.values[::7] = member.flat.values[::7].flip(0)
    assert torch.equal(members[0].flat.rows, members[1].flat.rows)


@pytest.mark.usefixtures("deterministic")
def test_dropout_in_replayed_steps_draws_from_the_seed_of_the_step():
    torch.manual_seed(0)
    rows = []
    for kind in ("true", "false"):
        torch.manual_seed(0)
        layers = [torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(768, 4)]
        config = tiny_config(f"train.cuda_graph={kind}")
        member = Member(torch.nn.Sequential(*layers).cuda(), config, 0, 0, 50, AloneReducer())
        for step in range(10):
            member.step(gpu_batch(step), step)
        rows.append(member.flat.rows)
    assert torch.equal(*rows)


@pytest.mark.parametrize(
    "keys",
    [
        ["train.precision=bf16", "train.channels_last=true"],
        ["train.precision=fp16"],
        ["train.cuda_graph=true"],
        ["optimizer.name=adamw"],
    ],
    ids=str,
)
def test_between_logs_a_step_never_waits_for_the_gpu(keys):
    member, clock = gpu_member(*keys), Stopwatch(torch.device("cuda"))
    batches = [gpu_batch(step) for step in range(10)]
    for step in range(5):
        member.step(batches[step], step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(5, 10):
            with clock("compute"):
                member.step(batches[step], step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert clock.read()["compute"] > 0


def test_one_kernel_makes_the_update():
    member = gpu_member()
    member.step(gpu_batch(0), 0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        member._update()
        torch.cuda.synchronize()
    events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [event.name for event in events if not event.is_user_annotation and "mem" not in event.name.lower()]
    assert len(kernels) == 1, kernels


def test_the_stopwatch_counts_what_the_gpu_waited_for_and_not_what_the_host_did():
    clock, work = Stopwatch(torch.device("cuda")), torch.randn(4096, 4096, device="cuda")
    for _ in range(3):
        work @ work
    torch.cuda.synchronize()
    with clock("compute"):
        for _ in range(200):
            work @ work
    with clock("data"):
        time.sleep(0.001)  # the host fetches while the GPU computes
    busy = clock.read()
    assert busy["data"] < 0.25 * busy["compute"]
    with clock("data"):
        time.sleep(0.1)  # the GPU has nothing to do
    assert clock.read()["data"] > 0.09


def test_the_step_is_timed_beside_a_plain_loop_on_a_gpu():
    """Leaves the figures in build/; ranks share the GPU where there are fewer GPUs than ranks."""
    for name, more in (("", []), ("_graph", ["--cuda-graph"])):
        command = [sys.executable, "tools/bench_train.py", "--device", "cuda", "--batch-size", "128", "--json", *more]
        shorter = ["--rounds", "6", "--steps", "10"]  # two ranks of ResNet-50 on one GPU: half a minute
        done = subprocess.run([*command, "--channels-last", *shorter], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        Path("build").mkdir(exist_ok=True)
        Path(f"build/bench_train_gpu{name}.json").write_text(done.stdout)
        assert json.loads(done.stdout)["ours_over_plain"] > 0


def test_the_data_path_is_timed_beside_torchvisions_loader_on_a_gpu():
    """Leaves the figures in build/."""
    sizes = ["--batch-size", "128", "--rounds", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "tools/bench_data.py", "--device", "cuda", *sizes], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    Path("build").mkdir(exist_ok=True)
    Path("build/bench_data_gpu.json").write_text(done.stdout)
    assert json.loads(done.stdout)["dali_over_torchvision"] > 0


@pytest.mark.parametrize("graph", ["false", "true"])
def test_a_run_of_members_and_replicas_that_share_a_gpu_equals_its_twin_that_was_stopped(tmp_path, graph):
    """Replicas, exchanges prepared in a thread, and replayed steps beside them, on a deterministic GPU."""
    shared = [*SHARED, "ensemble.members=2", "run.deterministic=true", f"train.cuda_graph={graph}"]
    shared += ["checkpoint.every_steps=10", "optimizer.schedule=constant", "train.steps=20"]
    whole = train(tmp_path, "whole", 4, *shared)
    assert read_summary(whole).bytes_sent_per_member > 0
    train(tmp_path, "parts", 4, *shared, "train.steps=10")
    assert equal_weights(whole, train(tmp_path, "parts", 4, *shared, "checkpoint.resume=must"))


def test_replayed_steps_on_image_files_are_those_that_are_not(tmp_path):
    """DALI works ahead in its own threads and streams while steps are recorded and replayed."""
    keys = [*SHARED, f"data.path={photos(tmp_path)}", "data.name=image_folder", "data.batch_size=16", "train.steps=15"]
    keys += ["run.deterministic=true", "data.image_size=64", "data.resize=64"]
    runs = [train(tmp_path, kind, 2, *keys, f"train.cuda_graph={kind}") for kind in ("true", "false")]
    assert equal_weights(*runs)


def test_more_ranks_than_gpus_are_refused_before_anything_is_written(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text("{}\n")
    num_ranks = torch.cuda.device_count() + 1
    where = [f"run.dir={tmp_path}", "run.name=crowd", "parallel.reducer=mpi"]
    done = mpirun(num_ranks, sys.executable, "-m", "wash_hpc", "train", str(config), *TINY, *CUDA, *where)
    assert done.returncode == 2
    assert done.stderr.count("parallel.share_gpus=false: on host") == 1
    assert f"{num_ranks} ranks have {num_ranks - 1} GPU" in done.stderr
    assert not (tmp_path / "crowd").exists()


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


def photos(tmp_path: Path) -> Path:
    """A small folder of photographs as JPEG files."""
    folder = tmp_path / "photos"
    sizes = ["--classes", "4", "--images-per-class", "40"]
    command = [sys.executable, "tools/make_dataset.py", "imagenet-like", str(folder), *sizes]
    subprocess.run(command, check=True)
    return folder


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_images_are_the_same_whoever_decodes_them_on_the_gpu(tmp_path, share):
    keys = [f"data.path={photos(tmp_path)}", f"data.hw_decoder_share={share}", "data.decoder_size_hint=[800,800]"]
    cpu, gpu = (open_source(load_config(None, keys), torch.device(kind)) for kind in ("cpu", "cuda"))
    for here, there in islice(zip(cpu.train(0, Shard(), 32, 0), gpu.train(0, Shard(), 32, 0), strict=False), 4):
        assert (here.images - there.images.cpu()).abs().mean() * 0.225 < 2 / 255  # in units of the pixel range


def test_a_jpeg_that_is_cut_is_named_on_the_gpu_too(tmp_path):
    folder = photos(tmp_path)
    files = scan_splits(str(folder)).train
    culprit = Path(files.name(int(batch_positions(0, 0, 1, len(files), 32)[3])))  # in the second batch
    culprit.write_bytes(culprit.read_bytes()[: culprit.stat().st_size // 2])
    for share in (0.0, 0.99):
        keys = [f"data.path={folder}", f"data.hw_decoder_share={share}", "data.held_out=0"]
        with pytest.raises(DataError, match=f"{culprit}: this image cannot be decoded"):
            list(islice(open_source(load_config(None, keys), torch.device("cuda")).train(0, Shard(), 32, 0), 5))
        source = open_source(load_config(None, [*keys, "data.on_bad_file=skip"]), torch.device("cuda"))
        assert all(len(batch.labels) == 32 for batch in islice(source.train(0, Shard(), 32, 0), 5))
        assert source.skipped_files == [str(culprit)]


def test_shards_give_the_images_of_folders_on_the_gpu(tmp_path):
    folder = photos(tmp_path)
    subprocess.run([sys.executable, "tools/make_dataset.py", "shards", str(folder), str(tmp_path / "s")], check=True)
    keys = ["data.name=shards", f"data.path={tmp_path / 's'}"]
    cpu, gpu = (open_source(load_config(None, keys), torch.device(kind)) for kind in ("cpu", "cuda"))
    for here, there in islice(zip(cpu.train(0, Shard(), 32, 0), gpu.train(0, Shard(), 32, 0), strict=False), 4):
        assert here.labels.tolist() == there.labels.tolist()
        assert (here.images - there.images.cpu()).abs().mean() * 0.225 < 2 / 255


def test_tune_measures_each_share_and_runs_take_the_best(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(tune, "SECONDS", 0.5)
    keys = [f"data.path={photos(tmp_path)}", "data.batch_size=32"]
    lines = list(tune.tune(load_config(None, keys)))
    assert sum("images/s" in line for line in lines) == len(tune.SHARES)
    best = remembered_share(machine_name(2))
    assert best in tune.SHARES
    assert f"{best} is best" in lines[-1]
    assert open_source(load_config(None, keys), torch.device("cuda")).notes == (
        f"data.hw_decoder_share: {best:g}, as tuned, for {machine_name(2)}",
    )


def test_doctor_finds_the_gpu_and_decodes_on_it():
    done = mpirun(1, "wash-hpc", "doctor")
    assert done.returncode == 0, done.stdout
    assert "GPU       ok" in done.stdout
    assert "on cpu and cuda" in done.stdout
    assert done.stdout.count(" GB free, ") == torch.cuda.device_count()
    assert done.stdout.count("1 rank of this job") == 1


def test_doctor_counts_the_ranks_that_share_a_gpu():
    done = mpirun(2 * torch.cuda.device_count(), "wash-hpc", "doctor")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("2 ranks of this job") == torch.cuda.device_count()
    assert "up to 2 ranks share a GPU" in done.stdout
    assert "no GPU for rank" not in done.stdout
