"""Checkpoints are complete or absent, and what has changed on disk is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support import tiny_config
from wash_hpc.storage.checkpoint import (
    CheckpointError,
    Manifest,
    MemberState,
    checkpoint_folder,
    last_manifest,
    read_member,
    write_manifest,
    write_member,
)

STATE = {"rows": torch.arange(6.0).view(2, 3), "buffers.n": torch.tensor(7)}
OF_METHOD = {"received": torch.arange(3)}
OF_AVERAGES = {"ema": torch.arange(3.0), "last_steps": torch.tensor([4, 6])}


def write(folder: Path, step: int, keep: int = 2) -> None:
    checksums = {
        f"member-{member:04d}.safetensors": write_member(
            folder, step, member, MemberState(STATE, OF_METHOD, OF_AVERAGES)
        )
        for member in range(2)
    }
    write_manifest(folder, Manifest(step, 2, 3, 0, "sgd", [1, 2], [4, 8], 1.5, checksums), keep)


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path, 10)
    manifest = last_manifest(tmp_path)
    assert manifest is not None
    assert (manifest.step, manifest.values_moved, manifest.bytes_sent) == (10, [1, 2], [4, 8])
    state = read_member(tmp_path, manifest, 1)
    for written, read in ((STATE, state.own), (OF_METHOD, state.method), (OF_AVERAGES, state.averages)):
        assert read.keys() == written.keys()
        assert all(torch.equal(read[name], written[name]) for name in written)


def test_a_checkpoint_without_its_manifest_does_not_exist(tmp_path):
    assert last_manifest(tmp_path) is None
    write(tmp_path, 10)
    write_member(tmp_path, 20, 0, MemberState(STATE, {}, {}))  # killed before the manifest
    manifest = last_manifest(tmp_path)
    assert manifest is not None
    assert manifest.step == 10


def test_only_the_last_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("position", [0, 50, -1])
def test_a_flipped_bit_is_found_by_the_checksum(tmp_path, position):
    write(tmp_path, 1)
    file = checkpoint_folder(tmp_path, 1) / "member-0000.safetensors"
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(bytes(content))
    manifest = last_manifest(tmp_path)
    assert manifest is not None
    with pytest.raises(CheckpointError, match=r"member-0000\.safetensors: its checksum"):
        read_member(tmp_path, manifest, 0)


def test_a_missing_member_and_a_broken_manifest_are_named(tmp_path):
    write(tmp_path, 1)
    manifest = last_manifest(tmp_path)
    assert manifest is not None
    (checkpoint_folder(tmp_path, 1) / "member-0001.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"member-0001\.safetensors: cannot be read"):
        read_member(tmp_path, manifest, 1)
    (checkpoint_folder(tmp_path, 1) / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json: not readable"):
        last_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"num_members": 4}, r"ensemble\.members=4: the checkpoint holds 2 members"),
        ({"num_parameters": 5}, "5 parameters, the checkpoint's has 3"),
        ({"num_steps": 9}, "train.steps: the run would end after step 9, the checkpoint is of step 10"),
        ({"config": tiny_config("run.seed=1")}, "run.seed=1: the checkpoint's run has seed 0"),
        ({"config": tiny_config("optimizer.name=adam")}, "optimizer.name=adam: the checkpoint holds the state of sgd"),
        (
            {"config": tiny_config("train.channels_last=true")},
            "train.channels_last=true: the checkpoint's parameters lie",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_naming_the_key(changed, says):
    manifest = Manifest(10, 2, 3, 0, "sgd", [0, 0], [0, 0], 0.0, {})
    fitting = {"config": tiny_config(), "num_members": 2, "num_parameters": 3, "num_steps": 10}
    manifest.require_fit(**fitting)
    with pytest.raises(CheckpointError, match=says):
        manifest.require_fit(**{**fitting, **changed})
