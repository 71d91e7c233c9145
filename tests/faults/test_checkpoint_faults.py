"""Checkpoints survive what happens to writers and to disks: a run loses nothing but the steps since the last one."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.faults.faulty import mount, unmount, why_no_mount
from tests.support import TINY, equal_weights, final_weights, mpirun, train
from wash_hpc.config import load_config
from wash_hpc.errors import RunFolderError, WashError
from wash_hpc.storage.checkpoint import (
    Manifest,
    MemberState,
    checkpoint_folder,
    member_name,
    read_member,
    verify_member,
    write_member,
)
from wash_hpc.storage.kept import complete, find_checkpoints, last_manifest, put_aside, read_best
from wash_hpc.storage.metrics import read_metrics

SHARED = ["model.name=mlp", "train.steps=9", "checkpoint.every_steps=3", "checkpoint.keep=9"]


def write_for_ever(folder: Path, step: int) -> None:
    """A writer of checkpoints, each value of which is its step."""
    while True:
        step += 1
        rows = torch.from_numpy(np.full((2, 100_000), float(step)))
        state = MemberState({"rows": rows}, {}, {})
        checksums = {member_name(member): write_member(folder, step, member, state) for member in range(2)}
        complete(folder, Manifest(step, 2, 100_000, 0, "sgd", [0, 0], [0, 0], 0.0, checksums), 2, None)


def test_a_writer_killed_at_sixty_random_moments_always_leaves_whole_checkpoints_and_the_next_start_clears_up(tmp_path):
    chance, last, num_unfinished = random.Random(0), 0, 0
    for _ in range(60):
        writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(tmp_path, last))
        writer.start()
        time.sleep(chance.uniform(0.005, 0.06))
        writer.kill()
        writer.join()
        for found in find_checkpoints(tmp_path):
            assert found.manifest is not None, found.damage
            for member in range(2):
                assert (read_member(tmp_path, found.manifest, member).own["rows"] == found.step).all()
        complete_steps = [found.step for found in find_checkpoints(tmp_path)]
        assert not last or complete_steps[0] >= last, "the last complete checkpoint is there for good"
        last = max([last, *complete_steps])
        before = set(tmp_path.rglob("*"))
        put_aside(tmp_path, last)
        num_unfinished += before != set(tmp_path.rglob("*"))
        assert not list(tmp_path.rglob("*.new"))
        assert [found.step for found in find_checkpoints(tmp_path)] == complete_steps
    assert last > 5
    assert num_unfinished > 5, "the writer was never killed in mid-write"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members, one rank each, that nobody disturbs."""
    return train(tmp_path_factory.mktemp("runs"), "whole", 2, *SHARED)


KILLED = """
import os, signal, sys
from wash_hpc.__main__ import main
sync = os.fsync
def die(descriptor):
    name = os.readlink(f"/proc/self/fd/{descriptor}")
    if "step-00000006/.member-0001" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)
os.fsync = die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_rank_killed_in_the_middle_of_a_checkpoint_costs_the_steps_since_the_one_before(whole: Path) -> None:
    folder = whole.parent
    where = [f"run.dir={folder}", "run.name=killed"]
    done = mpirun(2, sys.executable, "-c", KILLED, "train", str(folder / "tiny.yaml"), *TINY, *SHARED, *where)
    assert done.returncode != 0
    killed = folder / "killed"
    assert list(killed.glob("checkpoints/step-00000006/.member-0001.*.new"))
    manifest = last_manifest(killed)
    assert manifest is not None
    assert manifest.step == 3
    train(folder, "killed", 2, *SHARED, "checkpoint.resume=must")
    assert equal_weights(whole, killed)
    assert not list(killed.rglob("*.new"))
    assert read_metrics(killed).step.tolist() == read_metrics(whole).step.tolist()


@pytest.mark.slow
def test_a_run_goes_on_with_other_replicas_from_the_same_values(whole: Path) -> None:
    """2 members x 1 -> 2 x 2 -> 2 x 1. There is no normalisation: half a batch has other statistics."""
    run = whole.parent / "replicas"
    shutil.copytree(whole, run)
    (run / "summary.json").unlink()
    for step in (6, 9):
        shutil.rmtree(checkpoint_folder(run, step))
    train(run.parent, run.name, 4, *SHARED, "ensemble.members=2", "checkpoint.resume=must")
    on_four = final_weights(run)
    for first, second in zip(final_weights(whole), on_four, strict=True):
        assert all(torch.allclose(first[key], second[key], rtol=1e-4, atol=1e-6) for key in first)
    (run / "summary.json").unlink()
    train(run.parent, run.name, 2, *SHARED, "checkpoint.resume=must")  # no step is left to do
    for first, second in zip(on_four, final_weights(run), strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    reason = why_no_mount(tmp_path / "probe")
    if reason:
        pytest.skip(reason)
    mount(folder, 2)
    yield folder
    unmount(folder)


@pytest.mark.small_disk
@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_run_with_one_sentence_and_leaves_the_checkpoint_before(
    small_disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text("{}\n")
    keys = ["model.width=8", "train.steps=2000", "checkpoint.every_steps=1", "checkpoint.keep=1000"]
    where = [f"run.dir={small_disk}", "run.name=run", "log.every_steps=2000"]
    command = [sys.executable, "-m", "wash_hpc", "train", str(tmp_path / "tiny.yaml"), *TINY, *keys, *where]
    done = mpirun(2, *command)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("cannot be written: No space left on device") == 1
    manifest = last_manifest(small_disk / "run")
    assert manifest is not None
    assert manifest.step > 1
    assert f"the run has ended, checkpoint.resume=auto goes on from step {manifest.step}" in done.stderr
    for member in range(2):
        verify_member(small_disk / "run", manifest, member)


def trained(folder: Path, name: str, *overrides: str) -> Path:
    """A run on the ranks of this process."""
    from wash_hpc.train import train as train_here

    keys = [*TINY, f"run.dir={folder}", f"run.name={name}", "parallel.reducer=mpi", "optimizer.schedule=constant"]
    train_here(None, [*keys, *overrides])
    return folder / name


def flip(file: Path) -> None:
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def cut(file: Path) -> None:
    """The last ten bytes are gone."""
    file.write_bytes(file.read_bytes()[:-10])


def empty(file: Path) -> None:
    """As a file system leaves a file after a power cut."""
    file.write_bytes(b"")


def on_root_alone(comm: Any, change: Callable[..., object], *arguments: object) -> None:
    """Change files while no rank looks at them."""
    comm.Barrier()
    if comm.rank == 0:
        change(*arguments)
    comm.Barrier()


def spoil_two(run: Path) -> None:
    """The last two checkpoints of a run that has not finished."""
    flip(checkpoint_folder(run, 8) / member_name(1))
    cut(checkpoint_folder(run, 6) / "manifest.json")
    (run / "summary.json").unlink()


def spoil_all(run: Path) -> None:
    """Each of its checkpoints, in one member or the other."""
    for found in find_checkpoints(run):
        empty(checkpoint_folder(run, found.step) / member_name(found.step % 4 // 2))
    (run / "summary.json").unlink()


DAMAGES = [
    (name, damage)
    for name in ("manifest.json", member_name(0), member_name(1))
    for damage in (flip, cut, empty, Path.unlink)
    if (name, damage) != ("manifest.json", Path.unlink)  # then there is no checkpoint
]


@pytest.mark.mpi(ranks=[2], timeout=180)
def test_damage_in_any_file_of_a_checkpoint_is_found_by_all_ranks_and_the_one_before_is_used_and_said(
    mpi_ranks, comm, tmp_path, capsys
):
    from wash_hpc.checkpoints import find_whole
    from wash_hpc.parallel.world import World, on_root
    from wash_hpc.storage.run_folder import find_start
    from wash_hpc.storage.run_lock import RunLock

    folder = Path(comm.bcast(str(tmp_path)))
    keys = ["checkpoint.every_steps=2", "checkpoint.keep=9", "log.progress=lines"]
    run, spoilt = trained(folder, "whole", *keys), folder / "spoilt"
    config = load_config(None, [*TINY, f"run.dir={folder}", "run.name=spoilt", "checkpoint.resume=auto"])
    world = World.open(comm, 2)
    on_root_alone(comm, shutil.copytree, run, spoilt)
    for name, damage in DAMAGES:
        file = checkpoint_folder(spoilt, 8) / name
        on_root_alone(comm, damage, file)
        manifest, (said,) = find_whole(config, world, on_root(comm, lambda: find_start(config, RunLock(spoilt))))
        assert manifest is not None
        assert manifest.step == 6
        assert said.startswith(f"damaged: {file}: ")
        assert said.endswith("; the checkpoint before, of step 6, is used")
        on_root_alone(comm, shutil.copy, checkpoint_folder(run, 8) / name, file)

    on_root_alone(comm, spoil_two, spoilt)
    capsys.readouterr()
    trained(folder, "spoilt", *keys, "checkpoint.resume=must")
    said = capsys.readouterr().out
    assert (said.count("the checkpoint before, of step 4, is used") == 1) == (comm.rank == 0)
    comm.Barrier()
    assert equal_weights(run, spoilt)
    assert [found.step for found in find_checkpoints(spoilt)] == [8, 6, 4, 2]
    assert {path.name for path in spoilt.glob("checkpoints/damaged-*")} == {
        f"damaged-step-{step:08d}" for step in (6, 8)
    }

    on_root_alone(comm, spoil_all, spoilt)
    for resume in ("auto", "must"):
        with pytest.raises(WashError, match=r"spoilt: no checkpoint is whole: .*to begin anew") as raised:
            trained(folder, "spoilt", *keys, f"checkpoint.resume={resume}")
        assert raised.value.agreed
    assert (spoilt / "members").is_dir(), "nothing was touched"


@pytest.mark.mpi(ranks=[2], timeout=180)
def test_steps_go_on_while_a_checkpoint_is_written_and_one_rank_that_cannot_write_ends_all(
    mpi_ranks, comm, tmp_path, monkeypatch
):
    import wash_hpc.checkpoint_writer
    from wash_hpc.member import Member

    folder = Path(comm.bcast(str(tmp_path)))
    plain = trained(folder, "plain", "train.steps=40")
    run, steps_meanwhile, step_of_member = folder / "slow", [], Member.step

    def write_slowly(*arguments):
        time.sleep(0.5)
        return write_member(*arguments)

    def step_and_look(self, batch, step):
        comm.Barrier()
        if step in (8, 9, 10) and not (checkpoint_folder(run, 8) / member_name(1)).exists():
            steps_meanwhile.append(step)
        step_of_member(self, batch, step)

    monkeypatch.setattr(Member, "step", step_and_look)
    if comm.rank == 1:
        monkeypatch.setattr(wash_hpc.checkpoint_writer, "write_member", write_slowly)
    trained(folder, "slow", "train.steps=40", "checkpoint.every_steps=8", "checkpoint.keep=9")
    assert steps_meanwhile[0] == 8, "the loop waited for the file"
    comm.Barrier()
    assert equal_weights(plain, run), "what is written is a copy, and writing changes nothing"
    assert [found.step for found in find_checkpoints(run)] == [40, 32, 24, 16, 8]
    comm.Barrier()

    def fail(*arguments):
        raise RunFolderError("the file of member 1: cannot be written")

    if comm.rank == 1:
        monkeypatch.setattr(wash_hpc.checkpoint_writer, "write_member", fail)
    with pytest.raises(
        WashError, match=r"cannot be written; the run has ended, none is left \(said rank 1 of 2\)"
    ) as all_:
        trained(folder, "failed", "train.steps=40", "checkpoint.every_steps=8")
    assert all_.value.agreed
    assert last_manifest(folder / "failed") is None


@pytest.mark.mpi(ranks=[2], timeout=180)
def test_the_checkpoint_of_the_best_soup_is_kept_beside_the_last_and_through_a_restart(mpi_ranks, comm, tmp_path):
    folder = Path(comm.bcast(str(tmp_path)))
    best_alone = ["checkpoint.keep_best=true", "checkpoint.keep=1", "evaluate.every_epochs=1", "optimizer.lr=0.3"]
    held_out = trained(folder, "held_out", *best_alone, "train.steps=12")
    tested = [*best_alone, "data.held_out=0"]  # eight steps an epoch
    trained(folder, "run", *tested, "train.steps=32")
    run = trained(folder, "run", *tested, "train.steps=64", "checkpoint.resume=must")
    comm.Barrier()
    best = read_best(held_out)
    assert best is not None
    assert best.by == "accuracy on held_out"
    best, records = read_best(run), read_metrics(run)
    assert best is not None
    first_best = int(np.argmax(records.soup_accuracy))
    assert len(records.evaluate_step) == 8
    assert (best.step, best.by) == (records.evaluate_step[first_best], "accuracy on test")
    assert best.merit == records.soup_accuracy[first_best]
    assert [found.step for found in find_checkpoints(run)] == sorted({64, best.step}, reverse=True)
