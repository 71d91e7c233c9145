"""What was measured on a kind of machine: kept beside what is known of others, and taken where nothing else is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from wash_hpc.config import load_config
from wash_hpc.data import open_source
from wash_hpc.errors import ConfigError, RunFolderError
from wash_hpc.machine import machine_name, machines_file, remember_share, remembered_share

H200, A100 = "NVIDIA H200, 16 cores", "NVIDIA A100-SXM4-40GB, 8 cores"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, in which nothing is yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_the_best_share_of_each_kind_of_machine_is_remembered_in_one_file(home: Path) -> None:
    assert remembered_share(H200) is None
    assert remember_share(H200, 0.8, 5123.456) == home / "config" / "wash_hpc" / "machines.json"
    remember_share(A100, 0.99, 3000)
    remember_share(H200, 0.5, 6000)
    assert (remembered_share(H200), remembered_share(A100), remembered_share("other")) == (0.5, 0.99, None)
    assert json.loads(machines_file().read_text()) == {
        A100: {"hw_decoder_share": 0.99, "images_per_second": 3000},
        H200: {"hw_decoder_share": 0.5, "images_per_second": 6000},
    }
    assert [file.name for file in machines_file().parent.iterdir()] == ["machines.json"]


def test_without_xdg_config_home_the_file_is_in_the_users_config_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(home))
    assert machines_file() == home / ".config" / "wash_hpc" / "machines.json"


def test_keys_that_are_not_ours_stay(home: Path) -> None:
    machines_file().parent.mkdir(parents=True)
    machines_file().write_text(json.dumps({"note": "of the site", A100: {"other": 1}}))
    remember_share(H200, 0.8, 1)
    known = json.loads(machines_file().read_text())
    assert (known["note"], known[A100]) == ("of the site", {"other": 1})
    assert remembered_share(A100) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read: it is no JSON"),
        ("[1]", "expected one JSON object"),
        (json.dumps({H200: {"hw_decoder_share": 2}}), "hw_decoder_share is 2; expected a share"),
        (json.dumps({H200: {"hw_decoder_share": "much"}}), 'hw_decoder_share is "much"; expected a share'),
        (json.dumps({H200: {"hw_decoder_share": True}}), "hw_decoder_share is true; expected a share"),
        (json.dumps({H200: 0.5}) + "}", "it is no JSON"),
    ],
)
def test_a_damaged_file_is_one_sentence_and_is_left_as_it_is(home: Path, content: str, says: str) -> None:
    machines_file().parent.mkdir(parents=True)
    machines_file().write_text(content)
    with pytest.raises(ConfigError, match=rf"machines.json: .*{says}") as caught:
        remembered_share(H200)
    assert "\n" not in str(caught.value)
    if "expected a share" not in says:
        with pytest.raises(ConfigError, match=r"machines.json: "):
            remember_share(A100, 0.5, 1)
    assert machines_file().read_text() == content


def test_a_folder_that_cannot_be_made_is_a_sentence(home: Path) -> None:
    (home / "config").write_text("a file")
    with pytest.raises((ConfigError, RunFolderError), match=r"config.*(cannot be (made|read)): Not a directory"):
        remember_share(H200, 0.8, 1)


def test_the_name_of_a_machine_says_its_gpu_and_the_threads_that_decode() -> None:
    assert machine_name(8, "NVIDIA H200") == "NVIDIA H200, 8 threads"


@pytest.mark.parametrize("tuned", [True, False])
def test_a_source_on_a_gpu_takes_what_was_tuned_for_this_machine_and_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, tuned: bool
) -> None:
    for split in ("train", "val"):
        (home / "images" / split / "a").mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(home / "images" / split / "a" / "0.jpg")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    name = machine_name(2, "NVIDIA H200")
    if tuned:
        remember_share(name, 0.9, 1)
    keys, gpu = [f"data.path={home / 'images'}", "data.held_out=0"], torch.device("cuda")
    assert open_source(load_config(None, keys), gpu).notes == (
        f"data.hw_decoder_share: 0.9, as tuned, for {name}"
        if tuned
        else f"data.hw_decoder_share: DALI's default, 0.65 (wash-hpc tune finds the best), for {name}",
    )
    assert open_source(load_config(None, [*keys, "data.hw_decoder_share=0.5"]), gpu).notes == ()
    assert open_source(load_config(None, keys), torch.device("cpu")).notes == ()
    machines_file().parent.mkdir(parents=True, exist_ok=True)
    machines_file().write_text("damaged")
    with pytest.raises(ConfigError, match=r"machines.json: cannot be read"):
        open_source(load_config(None, keys), gpu)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["data.name=synthetic"], "data.name=synthetic: nothing is decoded; expected image_folder or shards"),
        (["data.name=image_folder"], "torch sees no GPU on this host"),
    ],
)
def test_tune_refuses_what_it_cannot_measure_in_one_sentence(home: Path, keys: list[str], says: str) -> None:
    (home / "c.yaml").write_text("{}\n")
    command = [sys.executable, "-m", "wash_hpc", "tune", str(home / "c.yaml"), *keys]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=hidden)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not machines_file().exists()


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("data.prefetch=0", "data.prefetch=0: expected at least 1"),
        ("data.hw_decoder_share=1.5", r"data.hw_decoder_share=1.5: expected a share in \[0, 1\], or null"),
        ("data.hw_decoder_share=-.1", "data.hw_decoder_share=-0.1"),
        ("data.decoder_size_hint=[100]", r"data.decoder_size_hint=\[100\]: expected a height and a width"),
        ("data.decoder_size_hint=[-1,5]", r"data.decoder_size_hint=\[-1, 5\]"),
        ("data.on_bad_file=ignore", "data.on_bad_file: .*'stop', 'skip'"),
    ],
)
def test_values_out_of_range_are_refused(key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(None, [key])
