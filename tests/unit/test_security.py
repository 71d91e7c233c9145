"""What others wrote neither runs code nor shows what it should not: configurations, pickles, names, the environment."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import TINY
from wash_hpc.config import Config, load_config
from wash_hpc.data import read_content
from wash_hpc.data.cifar import load_cifar100
from wash_hpc.data.folder import scan_splits
from wash_hpc.data.shards import Index, find_index
from wash_hpc.errors import ConfigError, DataError, RunFolderError, WashError, printable
from wash_hpc.logs import say
from wash_hpc.methods import require_methods
from wash_hpc.models import build_model
from wash_hpc.report.runs import read_runs

SECRET = "xyzzy-do-not-tell"


@pytest.mark.parametrize(
    "text", ["run: {name: '${oc.env:TOKEN}'}", "run:\n  dir: a\n  name: ${run.dir}", "data: '${run}'"]
)
def test_a_configuration_cannot_refer_to_the_environment_or_to_other_keys(tmp_path, monkeypatch, text):
    monkeypatch.setenv("TOKEN", SECRET)
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="refers to another value") as refused:
        load_config(file)
    assert SECRET not in str(refused.value)
    for override in ("run.name=${oc.env:TOKEN}", "method.name=${oc.env:TOKEN}", "method.then=['${oc.env:TOKEN}']"):
        with pytest.raises(ConfigError, match="refers to another value") as refused:
            load_config(None, [override])
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("run: !!python/object/apply:os.system [echo]", "constructor for the tag"),
        ("run: " + "[" * 100_000, "expected a configuration of at most"),
        ("run: " + "[" * 10_000, "more than 20 deep"),  # PyYAML's own reader would end the process here
        (
            "a: &a [x, x, x, x]\n"
            + "\n".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
            "expan",
        ),
        ("run: &r {name: *r}", "recursive"),
        ("run: {name: ???}\n", "not readable"),
        ("run:\n  name: '???'\n", "stands for no value"),
    ],
    ids=["tag", "long", "deep", "laughs", "recursive", "mark", "missing"],
)
def test_a_file_that_is_meant_to_do_harm_is_refused_at_once(tmp_path, text, says):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(file)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "-x", "a" * 201, "é" * 101, '"a\\0b"', '"\\e[31m"', '"a\\nb"', '"\\u202e"', "a/../../b"]
)
def test_a_run_has_a_plain_name(name):
    with pytest.raises(ConfigError, match=r"run\.name"):
        load_config(None, [f"run.name={name}"])


@pytest.mark.parametrize("key", ["model.name", "data.name", "method.name"])
@pytest.mark.parametrize("name", ["os.system", "torchvision.ops", "torchvision.get_weight", "../x", "__init__"])
def test_a_name_imports_nothing(key, name):
    with pytest.raises(ConfigError, match="there is no such name"):
        look_up(load_config(None, [f"{key}={name}"]))


def look_up(config: Config) -> None:
    require_methods(config)
    build_model(config.model.name, (3, 8, 8), 2)
    read_content(config)


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harm",)


def test_a_cifar_file_builds_bytes_and_lists_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "cifar-100-python"
    root.mkdir()
    for content in (
        Harm(),
        {"data": np.array([Harm()]), "fine_labels": [1]},
        {"data": np.zeros((1, 3072)), "fine_labels": [1]},
    ):
        (root / "train").write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(DataError, match=r"no CIFAR file|expected 'data'"):
            load_cifar100(str(tmp_path))
    assert not (tmp_path / "harm").exists()


def test_an_index_of_shards_reads_bytes_of_its_shards_alone(tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}-0.tar").write_bytes(bytes(4096))
    right = Index(
        np.array(["train-0.tar", "val-0.tar"]),
        np.array([4096, 4096]),
        np.array([0, 1], np.int32),
        np.array([512, 512]),
        np.array([100, 100]),
        np.array([0, 0]),
    )
    wrong: list[dict[str, Any]] = [
        {"names": np.array(["train-0.tar", "../val-0.tar"])},
        {"shard": np.array([0, 2], np.int32)},
        {"shard": np.array([0, -1], np.int32)},
        {"offset": np.array([512, -512])},
        {"size": np.array([100, 2**62])},
        {"label": np.array([0, -1])},
        {"label": np.array([0.5, 0])},
        {"sizes": np.array([4096])},
        {"names": np.array(["train-0.tar", None], dtype=object)},
    ]
    np.savez(tmp_path / "index.npz", **vars(right))
    find_index(str(tmp_path))
    for change in wrong:
        np.savez(tmp_path / "index.npz", **{**vars(right), **change})
        with pytest.raises(DataError, match=r"index\.npz"):
            find_index(str(tmp_path))


def test_names_of_others_cannot_move_a_terminals_cursor_or_forge_lines(tmp_path, capsys):
    name = "a\x1b[2J\x9b\r\n\u202eb\udcff é漢"
    assert printable(name) == r"a\x1b[2J\x9b\r\n\u202eb\udcff é漢"
    assert str(WashError(name)) == printable(name)
    say(name)
    assert capsys.readouterr().out == printable(name) + "\n"
    for split in ("train", "val"):
        (tmp_path / split / "cat\x1b[31m").mkdir(parents=True)
    with pytest.raises(DataError, match="this class is empty") as refused:
        scan_splits(str(tmp_path))
    assert r"cat\x1b[31m" in str(refused.value)
    _, (problem,) = read_runs([tmp_path / "x\ny"])
    assert r"x\ny" in problem
    assert isinstance(pickle.loads(pickle.dumps(RunFolderError(name))), RunFolderError)


def test_an_image_folder_follows_links_as_torchvision_does(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0.jpg").write_bytes(b"\xff\xd8")
    for split in ("train", "val"):
        (tmp_path / "set" / split).mkdir(parents=True)
        (tmp_path / "set" / split / "cat").symlink_to(elsewhere)
    assert len(scan_splits(str(tmp_path / "set")).train) == 1


def test_no_secret_of_the_environment_is_in_what_a_run_leaves_or_says(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("{}\n")
    secrets = (
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "SLURM_JWT",
        "HF_TOKEN",
        "WANDB_API_KEY",
        "PASSWORD",
        "OMPI_SECRET",
    )
    environment = {**os.environ, **dict.fromkeys(secrets, SECRET)}
    where = [f"run.dir={tmp_path}", "run.name=run"]
    said = ""
    for command in (
        ["train", str(config), *TINY, *where, "train.steps=2", "checkpoint.every_steps=1", "log.progress=lines"],
        ["train", str(config), *TINY, *where, "data.name=no"],
        ["doctor"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "wash_hpc", *command], capture_output=True, text=True, env=environment, check=False
        )
        said += done.stdout + done.stderr
    assert SECRET not in said
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(files) > 5
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
    assert Path(tmp_path / "run/summary.json").is_file()
