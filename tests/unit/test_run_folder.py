"""Whether a run may start in a folder, and what it says of the start before."""

from __future__ import annotations

import pytest

from wash_hpc.config import Config, load_config
from wash_hpc.errors import RunFolderError
from wash_hpc.storage.run_folder import changed_keys, create_folder, find_start


def config_in(folder, *overrides: str) -> Config:
    return load_config(None, [f"run.dir={folder}", "run.name=run", *overrides])


def test_a_fresh_folder_gets_the_configuration_and_has_nothing_to_continue(tmp_path):
    config = config_in(tmp_path)
    assert find_start(config) is None
    assert create_folder(config) == []
    assert load_config(tmp_path / "run" / "config.yaml") == config


def test_a_folder_that_exists_is_refused_unless_it_is_to_be_continued(tmp_path):
    create_folder(config_in(tmp_path))
    with pytest.raises(RunFolderError, match="run exists"):
        find_start(config_in(tmp_path))
    with pytest.raises(RunFolderError, match="holds no complete checkpoint"):
        find_start(config_in(tmp_path, "checkpoint.resume=must"))
    assert find_start(config_in(tmp_path, "checkpoint.resume=auto")) is None


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
