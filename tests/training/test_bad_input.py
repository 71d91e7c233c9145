"""A user's mistakes: each gets one sentence that names it, on every rank, before anything is written."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from tests.support import TINY, equal_weights, mpirun
from wash_hpc.errors import WashError
from wash_hpc.storage.metrics import read_metrics

# What is given, and what the sentence must say.
MISTAKES = [
    (["methd.p=0.1"], "methd: there is no such key; did you mean method"),
    (["method.prob=0.1"], "method.prob"),
    (["optimizer.momentun=0.5"], "optimizer.momentun: there is no such key; did you mean momentum"),
    (["method.p=often"], "method.p: .*'often'"),
    (["data.batch_size=1.5"], "data.batch_size: .*'1.5'"),
    (["method.schedule=random"], "method.schedule: .*'decreasing', 'constant', 'increasing'"),
    (["method.p=1.5"], r"method.p=1.5: expected a probability in \[0, 1\]"),
    (["method.p=-0.1"], "method.p=-0.1"),
    (["method.p=nan"], "method.p=nan"),
    (["optimizer.lr=.inf"], "optimizer.lr=inf"),
    (["ensemble.members=3"], "ensemble.members=3: 2 ranks cannot be shared out evenly"),
    (["ensemble.members=1", "data.batch_size=3"], "data.batch_size=3: expected a multiple of the 2 replicas"),
    (["data.batch_size=9", "train.mixup=0.2"], "data.batch_size=9: expected a multiple of 2, because train.mixup"),
    (["ensemble.members=1", "data.batch_size=6", "train.cutmix=1"], "data.batch_size=6: expected a multiple of 4"),
    (["train.random_erasing=[0,2]"], r"train.random_erasing=\[0.0, 2.0\]: expected a probability"),
    (["data.batch_size=1000"], "data.batch_size=1000: the training set has only 48 images"),
    (["data.name=image_folder", "data.path=nowhere"], "nowhere"),
    (["data.name=image_folder"], "data.path"),
    (["data.name=imagenet"], "data.name=imagenet: .*image_folder"),
    (["model.name=resnet50"], "model.name=resnet50: .*torchvision.resnet50"),
    (["model.name=torchvision.vit_b_16"], "model.name=torchvision.vit_b_16 cannot take images of shape"),
    (["method.name=washh"], "method.name=washh: .*did you mean wash"),
    (["method.then=[{name: pappa}]"], r"method.then\[0\].name=pappa: .*did you mean papa"),
    (["method.name=papa", "method.p=0.5"], "method.p=0.5: .*papa does not know this option; it knows .*alpha"),
    (["checkpoint.resume=must"], "checkpoint.resume=must"),
    (["parallel.device=cuda"], "parallel.device=cuda"),
    (["method.optimizer_state=true", "optimizer.momentum=0"], "method.optimizer_state=True: .*keeps no state"),
    (["method.optimizer_state=true", "method.overlap=true", "optimizer.name=adam"], "method.overlap=True: .*adam"),
    (["method.optimizer_state=true", "method.overlap=true", "optimizer.name=adamw"], "method.overlap=True: .*adam"),
    (["method.quarantine=true", "method.topology=ring"], "method.quarantine=True: .*method.topology"),
    (["method.quarantine=true", "method.topology=node"], "method.quarantine=True: .*method.topology"),
    (["method.topology=star"], "method.topology: .*'global', 'node', 'ring'"),
    (["method.node_ratio=0"], "method.node_ratio=0: expected at least 1"),
    (["method.node_size=0"], "method.node_size=0: expected at least 1"),
    (["method.p"], "'method.p' is not of the form key=value"),
]


def refuse(tmp_path: Path, comm, overrides: list[str], says: str) -> None:
    """All ranks raise the same sentence, and no run folder is there after it."""
    from wash_hpc.train import train

    folder = comm.bcast(str(tmp_path))
    with pytest.raises(WashError, match=f"(?is){says}") as raised:
        train(None, [*TINY, f"run.dir={folder}/runs", "run.name=refused", *overrides])
    assert raised.value.agreed
    assert "\n" not in str(raised.value)
    assert len(set(comm.allgather(str(raised.value)))) == 1
    assert not (Path(folder) / "runs").exists()


@pytest.mark.mpi(ranks=[2], timeout=240)
def test_every_mistake_in_the_configuration_is_refused_on_all_ranks_with_a_sentence(mpi_ranks, comm, tmp_path):
    for overrides, says in MISTAKES:
        refuse(tmp_path, comm, overrides, says)


@pytest.mark.mpi(ranks=[3], timeout=120)
def test_members_that_are_not_alike_are_refused_with_their_ranks_and_what_differs(
    mpi_ranks, comm, tmp_path, monkeypatch
):
    """As where a host has another version of the data, or of a library that makes the network."""
    from wash_hpc import models, train

    def on_ranks(ranks, name, other):
        """On these ranks, what train knows by this name is another."""
        real = getattr(train, name)
        monkeypatch.setattr(train, name, lambda *given: other(real, given) if comm.rank in ranks else real(*given))

    def with_data(**changes):
        return lambda real, given: real(replace(given[0], data=replace(given[0].data, **changes)), given[1])

    for ranks, name, other, says in [
        (
            [1],
            "open_source",
            with_data(num_classes=5),
            r"^the ranks of this job are not alike: rank 1: parameter 27 classifier.weight \[5, 16\] float32, "
            r"the others classifier.weight \[4, 16\] float32; .*; expected the same on all of them$",
        ),
        (
            [0, 2],
            "make_initial_model",
            lambda real, given: real(*given).double(),
            r"rank 1: parameter 0 \S+ \[4, 3, 3, 3\] float32, the others .* float64; .*; and \d+ more; expected",
        ),
        (
            [0],
            "build_model",
            lambda real, given: nn.ModuleDict({"inner": real(*given)}),
            r"rank 0: the source of model .*; rank 0: parameter 0 inner\.(\S+) .*, the others \1 ",
        ),
        ([2], "open_source", with_data(num_images=80), "rank 2: the number of training images 60, the others 48"),
    ]:
        on_ranks(ranks, name, other)
        refuse(tmp_path, comm, [], says)
        monkeypatch.undo()

    monkeypatch.setitem(models._OWN, "frozen", lambda *shape: models.build_model("mlp", *shape).requires_grad_(False))
    refuse(tmp_path, comm, ["model.name=frozen"], "model.name=frozen has no trainable parameters")


@pytest.mark.mpi(ranks=[2], timeout=120)
def test_a_run_that_hardly_shuffles_is_warned_of_once_and_done(mpi_ranks, comm, tmp_path, capsys):
    from wash_hpc.train import train

    folder = comm.bcast(str(tmp_path))
    for number, (overrides, says) in enumerate(
        [
            (["method.p=1e-7"], "values are expected to be picked in the whole run"),
            (["method.start=8"], "no exchange is due in the 8 steps"),
            (["method.p=0"], ""),
            ([], ""),
        ]
    ):
        name = f"few-{number}"
        train(
            None,
            [*TINY, f"run.dir={folder}", f"run.name={name}", "parallel.reducer=mpi", "log.progress=lines", *overrides],
        )
        said = capsys.readouterr().out
        warnings = [line for line in said.splitlines() if "the members train independently" in line]
        assert len(warnings) == (1 if says and comm.rank == 0 else 0)
        assert all(f" {name}: " in line and says in line for line in warnings)


@pytest.mark.mpi(ranks=[2], timeout=120)
def test_mistakes_in_an_image_folder_are_refused_on_all_ranks_with_the_place(mpi_ranks, comm, tmp_path, digits_folder):
    def spoil(name: str, change) -> str:
        """A copy of the folder with one thing wrong."""
        target = Path(comm.bcast(str(tmp_path))) / name
        if comm.rank == 0:
            shutil.copytree(digits_folder, target)
            change(target)
        comm.Barrier()
        return f"data.path={target}"

    def empty_class(root: Path) -> None:
        for file in (root / "train" / "3").iterdir():
            file.unlink()

    shape = ["data.name=image_folder", "data.image_size=16", "data.resize=16"]
    empty = spoil("empty", empty_class)
    refuse(tmp_path, comm, [*shape, empty], "train/3.*(empty|no image)")
    different = spoil("different", lambda root: (root / "test" / "7").rename(root / "test" / "seven"))
    refuse(tmp_path, comm, [*shape, different], "different/test.*missing: 7")
    no_image = spoil("no_image", lambda root: (root / "train" / "5" / "zz.jpg").write_text("not an image"))
    refuse(tmp_path, comm, [*shape, no_image], "train/5/zz.jpg")


@pytest.mark.mpi(ranks=[2], timeout=120)
def test_a_run_goes_on_without_files_that_cannot_be_decoded_and_counts_them(
    mpi_ranks, comm, tmp_path, digits_folder, capsys
):
    """Whichever rank meets one, all learn of it; and continued from a checkpoint the run comes to the same weights."""
    from wash_hpc.train import train

    root = Path(comm.bcast(str(tmp_path))) / "spoilt"
    if comm.rank == 0:
        shutil.copytree(digits_folder, root)
        for file in (*sorted((root / "train" / "3").iterdir())[:40], *sorted((root / "test" / "8").iterdir())[:2]):
            file.write_bytes(file.read_bytes()[:-30])
    comm.Barrier()
    shape = ["data.name=image_folder", "data.image_size=16", "data.resize=16", f"data.path={root}"]
    run = [*TINY, *shape, f"run.dir={root.parent}", "checkpoint.every_steps=4", "parallel.reducer=mpi"]
    skip = [*run, "data.on_bad_file=skip", "log.progress=lines"]
    summary = train(None, [*skip, "run.name=whole"])
    said = capsys.readouterr().out
    records = read_metrics(root.parent / "whole").skipped_files
    assert records.shape == (2, 2)
    assert (np.diff(records, axis=0) >= 0).all()
    assert 2 < summary.skipped_files <= 42
    assert records[-1].max() <= summary.skipped_files
    assert (said.count("such files are left out (data.on_bad_file=skip)") == 1) == (comm.rank == 0)
    assert f"{root}/train/3/" in said or comm.rank > 0

    train(None, [*skip, "run.name=parts", "train.steps=4", "optimizer.schedule=constant"])
    train(None, [*skip, "run.name=parts", "checkpoint.resume=must", "optimizer.schedule=constant"])
    train(None, [*skip, "run.name=straight", "optimizer.schedule=constant"])
    assert equal_weights(root.parent / "parts", root.parent / "straight")


@pytest.mark.mpi(ranks=[2], timeout=120)
def test_a_run_folder_that_exists_is_refused_and_left_untouched(mpi_ranks, comm, tmp_path):
    from wash_hpc.train import train

    folder = Path(comm.bcast(str(tmp_path))) / "taken"
    if comm.rank == 0:
        folder.mkdir()
        (folder / "mine.txt").write_text("keep")
    comm.Barrier()
    with pytest.raises(WashError, match="taken exists"):
        train(None, [*TINY, f"run.dir={folder.parent}", "run.name=taken"])
    comm.Barrier()
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


@pytest.mark.mpi(ranks=[2], timeout=120)
def test_continuing_as_another_run_is_refused_on_all_ranks_and_leaves_the_run_as_it_is(mpi_ranks, comm, tmp_path):
    from wash_hpc.train import train

    folder = Path(comm.bcast(str(tmp_path)))
    run = [*TINY, f"run.dir={folder}", "run.name=run", "checkpoint.every_steps=4"]
    train(None, run)
    written = (folder / "run" / "config.yaml").read_text()
    comm.Barrier()
    with pytest.raises(WashError, match="has finished with other values") as finished:
        train(None, [*run, "checkpoint.resume=auto", "method.p=0.9"])
    assert finished.value.agreed
    if comm.rank == 0:
        (folder / "run" / "summary.json").unlink()  # as if it had not finished
    comm.Barrier()
    for changed, says in [
        ("run.seed=5", "run.seed=5"),
        ("optimizer.name=adam", "optimizer.name=adam"),
        ("optimizer.momentum=0", "another model or optimizer"),
        ("train.steps=2", "train.steps"),
        ("model.width=5", "model.name"),
        ("ensemble.members=1", "ensemble.members=1"),
    ]:
        with pytest.raises(WashError, match=says) as raised:
            train(None, [*run, "checkpoint.resume=auto", changed])
        assert raised.value.agreed
    comm.Barrier()
    assert (folder / "run" / "config.yaml").read_text() == written
    assert (folder / "run" / "members").is_dir()


HIDDEN = """
import sys
sys.modules["horovod"] = None  # as where it is not installed
from wash_hpc.__main__ import main
raise SystemExit(main(sys.argv[1:]))
"""


def test_a_missing_horovod_is_said_with_the_command_that_installs_it(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("{}")
    command = ["train", str(config), *TINY, f"run.dir={tmp_path}/runs"]
    done = mpirun(2, sys.executable, "-c", HIDDEN, *command, "parallel.reducer=horovod")
    assert done.returncode == 2
    assert done.stderr.count("wash_hpc: error: Horovod") == 1
    assert "tools/install_horovod.sh" in done.stderr
    assert "parallel.reducer=mpi" in done.stderr
    assert not (tmp_path / "runs").exists()
    assert mpirun(2, sys.executable, "-c", HIDDEN, *command, "parallel.reducer=mpi").returncode == 0


def test_the_command_line_says_a_mistake_once_and_exits_with_two(tmp_path):
    done = mpirun(3, "wash-hpc", "train", str(tmp_path / "no.yaml"))
    assert done.returncode == 2
    assert done.stderr.count("wash_hpc: error:") == 1
    assert "no.yaml: there is no such configuration file" in done.stderr
    assert "Traceback" not in done.stderr
