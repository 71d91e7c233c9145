"""Checkpoints are complete or absent, and what has changed on disk is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support import tiny_config
from wash_hpc.storage.checkpoint import (
    CheckpointError,
    DamageError,
    HostCopy,
    Manifest,
    MemberState,
    checkpoint_folder,
    read_manifest,
    read_member,
    verify_member,
    write_member,
)
from wash_hpc.storage.kept import Best, complete, find_checkpoints, last_manifest, put_aside, read_best

STATE = {"rows": torch.arange(6.0).view(2, 3), "buffers.n": torch.tensor(7)}
OF_METHOD = {"received": torch.arange(3)}
OF_AVERAGES = {"ema": torch.arange(3.0), "last_steps": torch.tensor([4, 6])}


def write(folder: Path, step: int, keep: int = 2, best: Best | None = None) -> None:
    checksums = {
        f"member-{member:04d}.safetensors": write_member(
            folder, step, member, MemberState(STATE, OF_METHOD, OF_AVERAGES)
        )
        for member in range(2)
    }
    complete(folder, Manifest(step, 2, 3, 0, "sgd", [1, 2], [4, 8], 1.5, checksums), keep, best)


def steps_in(folder: Path) -> list[int]:
    return [found.step for found in find_checkpoints(folder)]


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
    for read in (read_member, verify_member):
        with pytest.raises(CheckpointError, match=r"member-0001\.safetensors: cannot be read"):
            read(tmp_path, manifest, 1)
    (checkpoint_folder(tmp_path, 1) / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json: not readable"):
        read_manifest(tmp_path, 1)


def test_a_file_that_does_not_answer_is_no_damage_and_one_that_is_lost_is(tmp_path):
    write(tmp_path, 10)
    manifest = read_manifest(tmp_path, 10)
    file = checkpoint_folder(tmp_path, 10) / "member-0000.safetensors"
    file.unlink()
    with pytest.raises(DamageError, match="No such file"):
        verify_member(tmp_path, manifest, 0)
    file.mkdir()  # opening it is an error of the system's
    for read in (verify_member, read_member):
        with pytest.raises(CheckpointError, match="cannot be read: Is a directory") as raised:
            read(tmp_path, manifest, 0)
        assert not isinstance(raised.value, DamageError)
    with pytest.raises(CheckpointError, match="No such file") as raised:
        verify_member(tmp_path / "not_mounted", manifest, 0)
    assert not isinstance(raised.value, DamageError)


def test_the_last_manifest_is_the_last_that_can_be_read(tmp_path):
    for step in (1, 2):
        write(tmp_path, step)
    (checkpoint_folder(tmp_path, 2) / "manifest.json").write_text("[]")
    manifest = last_manifest(tmp_path)
    assert manifest is not None
    assert manifest.step == 1
    assert [(found.step, bool(found.damage)) for found in find_checkpoints(tmp_path)] == [(2, True), (1, False)]


def test_every_flipped_bit_of_a_manifest_is_found_or_changes_nothing_and_so_is_every_truncation(tmp_path):
    write(tmp_path, 10)
    file = checkpoint_folder(tmp_path, 10) / "manifest.json"
    manifest, content = read_manifest(tmp_path, 10), file.read_bytes()
    changed = [
        content[:n] + bytes([content[n] ^ 1 << bit]) + content[n + 1 :] for n in range(len(content)) for bit in range(8)
    ]
    num_found = 0
    for other in (*changed, *(content[:n] for n in range(len(content) - 2))):
        file.write_bytes(other)
        try:
            assert read_manifest(tmp_path, 10) == manifest
        except CheckpointError:
            num_found += 1
    assert num_found > 0.95 * 9 * len(content)  # the others change blanks


@pytest.mark.parametrize(
    ("key", "value"),
    [("step", 11), ("step", "10"), ("num_members", True), ("values_moved", [1]), ("checksums", {"a": 1}), ("new", 0)],
)
def test_a_manifest_that_somebody_else_wrote_is_looked_at_before_it_is_believed(tmp_path, key, value):
    """An early version wrote neither its own checksum nor the order of the parameters."""
    write(tmp_path, 10)
    file = checkpoint_folder(tmp_path, 10) / "manifest.json"
    content = json.loads(file.read_text())
    del content["manifest_checksum"], content["channels_last"]
    file.write_text(json.dumps(content))
    assert not read_manifest(tmp_path, 10).channels_last
    file.write_text(json.dumps({**content, key: value}))
    with pytest.raises(CheckpointError, match="not readable as a manifest"):
        read_manifest(tmp_path, 10)


def test_the_best_is_kept_beside_the_last_and_known_to_the_next_start(tmp_path):
    best = Best(2, 0.75, "accuracy on test")
    assert read_best(tmp_path) is None
    for step in (1, 2, 3, 4, 5):
        write(tmp_path, step, best=best if step > 1 else None)
    assert steps_in(tmp_path) == [5, 4, 2]
    assert read_best(tmp_path) == best
    write(tmp_path, 6, best=Best(6, 0.8, "accuracy on test"))
    assert steps_in(tmp_path) == [6, 5]
    (checkpoint_folder(tmp_path, 6) / "manifest.json").unlink()
    assert read_best(tmp_path) is None, "it is no longer there"
    (tmp_path / "checkpoints" / "best.json").write_text('{"step": []}')
    assert read_best(tmp_path) is None


def test_what_was_left_by_the_dead_is_removed_and_what_is_damaged_is_put_aside(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step, keep=3)
    write_member(tmp_path, 4, 0, MemberState(STATE, {}, {}))
    left = [tmp_path / name for name in (".summary.json.7.new", "checkpoints/step-00000001/.manifest.json.7.new")]
    for file in left:
        file.touch()
    put_aside(tmp_path, 1)
    assert not any(file.exists() for file in left)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["damaged-step-00000002", "damaged-step-00000003", "step-00000001"]
    assert steps_in(tmp_path) == [1]


def test_a_copy_keeps_the_state_while_the_run_goes_on_and_its_memory_is_used_again():
    state = MemberState({name: tensor.clone() for name, tensor in STATE.items()}, OF_METHOD, OF_AVERAGES)
    copies = HostCopy()
    copy = copies.take(state)
    assert copy.by_name().keys() == state.by_name().keys()
    assert all(torch.equal(copy.by_name()[name], tensor) for name, tensor in state.by_name().items())
    state.own["rows"] += 1
    assert torch.equal(copy.own["rows"], STATE["rows"])
    again = copies.take(MemberState(state.own, {"received": torch.arange(5)}, {}))
    assert again.own["rows"].data_ptr() == copy.own["rows"].data_ptr()
    assert torch.equal(again.own["rows"], STATE["rows"] + 1)
    assert again.method["received"].tolist() == [0, 1, 2, 3, 4]
    assert again.averages == {}


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
