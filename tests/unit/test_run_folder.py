"""Whether a run may start in a folder, and what it says of the start before."""

from __future__ import annotations

import json

import pytest

from wash_hpc.config import Config, load_config
from wash_hpc.errors import RunFolderError, StoppedError
from wash_hpc.storage.kept import Found
from wash_hpc.storage.run_folder import changed_keys, create_folder, find_finished, find_start
from wash_hpc.storage.run_lock import RunLock

# The least that a summary holds.
SUMMARY = {
    "name": "run",
    "method": "wash",
    "num_members": 2,
    "num_replicas": 1,
    "seed": 0,
    "steps": 8,
    "epochs": 1.0,
    "samples_seen": 64,
    "num_parameters": 10,
    "mean_member_accuracy": 0.5,
    "best_member_accuracy": 0.5,
    "ensemble_accuracy": 0.5,
    "soup_accuracy": 0.5,
    "soup_accuracy_raw": 0.5,
    "greedy_soup_accuracy": None,
    "consensus_distance": 0.1,
    "bytes_sent_per_member": 8,
    "wall_seconds": 1.0,
    "images_per_second_per_member": 64.0,
}


def start_of(config: Config) -> list[Found]:
    return find_start(config, RunLock(config.folder))


def config_in(folder, *overrides: str) -> Config:
    return load_config(None, [f"run.dir={folder}", "run.name=run", *overrides])


def test_a_fresh_folder_gets_the_configuration_and_has_nothing_to_continue(tmp_path):
    config = config_in(tmp_path)
    assert start_of(config) == []
    assert create_folder(config) == []
    assert load_config(tmp_path / "run" / "config.yaml") == config


def test_a_folder_that_exists_is_refused_unless_it_is_to_be_continued(tmp_path):
    create_folder(config_in(tmp_path))
    with pytest.raises(RunFolderError, match="run exists"):
        start_of(config_in(tmp_path))
    with pytest.raises(RunFolderError, match="holds no complete checkpoint"):
        start_of(config_in(tmp_path, "checkpoint.resume=must"))
    assert start_of(config_in(tmp_path, "checkpoint.resume=auto")) == []


def test_a_run_that_starts_anew_says_so_and_what_it_changes_and_keeps_nothing_of_the_old_start(
    tmp_path,
):
    create_folder(config_in(tmp_path))
    (tmp_path / "run" / "summary.json").write_text("{}")
    (tmp_path / "run" / "members").mkdir()
    (tmp_path / "run" / "members" / "member-0003.safetensors").touch()
    anew, changed = create_folder(config_in(tmp_path, "checkpoint.resume=auto", "method.p=0.5", "log.every_steps=3"))
    assert anew.endswith("run holds no checkpoint: starts anew, in place of what is there")
    assert changed == "starts with other values than before: method.p: 0.001 -> 0.5"
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not (tmp_path / "run" / "members").exists()
    assert changed_keys(config_in(tmp_path), config_in(tmp_path)) == []


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        create_folder(config_in(tmp_path / "file"))


def test_a_run_has_finished_whatever_it_is_made_by_but_not_where_its_result_may_differ(tmp_path):
    create_folder(config_in(tmp_path))
    assert find_finished(config_in(tmp_path, "checkpoint.resume=auto")) is None
    (tmp_path / "run" / "summary.json").write_text(json.dumps(SUMMARY))
    for same in ("data.workers=7", "data.path=/elsewhere", "parallel.reducer=mpi", "log.every_steps=3"):
        finished = find_finished(config_in(tmp_path, "checkpoint.resume=auto", same))
        assert finished is not None
        assert finished.soup_accuracy == 0.5
    for other in ("train.epochs=7", "method.p=0.5"):  # the first for want of a checkpoint
        with pytest.raises(
            RunFolderError, match=r"run has finished with other values \(.* -> .*; nothing was touched\)"
        ):
            find_finished(config_in(tmp_path, "checkpoint.resume=auto", other))
    assert find_finished(config_in(tmp_path)) is None


def test_a_file_stop_keeps_a_run_from_starting_until_it_is_removed(tmp_path):
    create_folder(config_in(tmp_path))
    (tmp_path / "run" / "STOP").touch()
    with pytest.raises(StoppedError, match="STOP: this file says that the run is to stop") as stopped:
        start_of(config_in(tmp_path, "checkpoint.resume=auto"))
    assert stopped.value.status == 3
    (tmp_path / "run" / "STOP").unlink()
    assert start_of(config_in(tmp_path, "checkpoint.resume=auto")) == []
