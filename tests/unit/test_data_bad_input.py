"""Data that cannot be used: each fault gets one sentence that names the key, folder or file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wash_hpc.config import load_config
from wash_hpc.data import folder as folder_module
from wash_hpc.data import image_source, open_source, source_names
from wash_hpc.data.folder import ImageFiles, find_fault, scan_splits
from wash_hpc.data.source import Shard, Source
from wash_hpc.errors import ConfigError, DataError

CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A good folder: two classes, three images each, in train, val and test."""
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (40, 30), (number, 9, 9)).save(tmp_path / split / name / f"{number}.jpg")
    return tmp_path


def open_folder(path: Path) -> Source:
    return open_source(load_config(None, [f"data.path={path}"]), CPU)


def test_an_unknown_name_lists_what_there_is_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"data.name=digit: .*did you mean digits\?") as caught:
        open_source(load_config(None, ["data.name=digit"]), CPU)
    assert all(name in str(caught.value) for name in source_names())


@pytest.mark.parametrize("name", ["image_folder", "cifar10", "cifar100"])
def test_a_missing_path_names_its_key_and_what_is_expected(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data.path is not set: expected .*(train/<class>|cifar-10)"):
        open_source(load_config(None, [f"data.name={name}"]), CPU)


def test_a_folder_that_is_not_there_is_named_with_its_key_and_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.path=.*nowhere: there is no such folder; expected .*train/<class>"):
        open_folder(tmp_path / "nowhere")


def test_a_folder_without_train_is_refused(root: Path) -> None:
    shutil.rmtree(root / "train")
    with pytest.raises(DataError, match=r"data.path=.*there is no folder train in it"):
        open_folder(root)


def test_a_folder_with_neither_val_nor_test_is_refused(root: Path) -> None:
    shutil.rmtree(root / "val")
    shutil.rmtree(root / "test")
    with pytest.raises(DataError, match=r"data.path=.*no folder val or test in it"):
        open_folder(root)


def test_a_split_without_classes_is_named(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    with pytest.raises(DataError, match=r"train: there is no class in it"):
        open_folder(root)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_class_is_named(root: Path, split: str) -> None:
    for file in (root / split / "dog").iterdir():
        file.unlink()
    (root / split / "dog" / ".DS_Store").write_bytes(b"x")
    with pytest.raises(DataError, match=rf"{split}/dog: this class is empty"):
        open_folder(root)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_only_train_has_is_named_with_where_it_is_missing(root: Path, split: str) -> None:
    shutil.rmtree(root / split / "dog")
    with pytest.raises(DataError, match=rf"{split}: 1 class of .*train missing: dog"):
        open_folder(root)


def test_classes_that_train_lacks_are_named_up_to_five(root: Path) -> None:
    for number in range(7):
        shutil.copytree(root / "test" / "cat", root / "test" / f"extra{number}")
    with pytest.raises(DataError, match=r"train: 7 classes of .*test missing: extra0, .*extra4 and 2 more"):
        open_folder(root)


def test_a_file_that_is_no_image_by_its_name_is_named(root: Path) -> None:
    (root / "train" / "dog" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"train/dog/notes.txt: this is no image by its name"):
        open_folder(root)


def test_a_folder_within_a_class_is_named(root: Path) -> None:
    (root / "train" / "dog" / "puppies.jpg").mkdir()
    with pytest.raises(DataError, match=r"train/dog/puppies.jpg: this is a folder"):
        open_folder(root)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"<html>no</html>", "this is no image"), (b"", "the file is empty"), (b"RIFF1234WAVE", "this is no image")],
)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_file_that_is_no_image_by_its_content_is_named(root: Path, split: str, content: bytes, sentence: str) -> None:
    (root / split / "dog" / "1.jpg").write_bytes(content)
    source = open_folder(root)
    with pytest.raises(DataError, match=rf"{split}/dog/1.jpg: {sentence}"):
        source.check_files(Shard())


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4])
def test_the_check_of_the_files_is_shared_out_so_that_one_part_finds_the_fault(root: Path, num_parts: int) -> None:
    (root / "test" / "cat" / "2.jpg").write_bytes(b"no")
    source = open_folder(root)
    faults = 0
    for part in range(num_parts):
        try:
            source.check_files(Shard(part, num_parts))
        except DataError:
            faults += 1
    assert faults == 1


def test_of_very_many_files_the_same_sample_is_checked_on_all_ranks(root: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(image_source, "MAX_CHECKED_FILES", 7)
    seen: list[str] = []
    monkeypatch.setattr(ImageFiles, "find_fault", lambda files, position: seen.append(files.name(position)))
    source = open_folder(root)
    source.check_files(Shard())
    whole, seen[:] = sorted(seen), []
    for part in range(3):
        source.check_files(Shard(part, 3))
    assert sorted(seen) == whole
    assert len(set(whole)) == 7


def test_good_files_of_every_format_that_dali_decodes_pass(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((20, 20, 3), 7, dtype=np.uint8))
    for kind in ("jpg", "png", "bmp", "webp", "tiff", "ppm", "jp2"):
        image.save(tmp_path / f"image.{kind}")
        assert find_fault(str(tmp_path / f"image.{kind}")) is None


def test_a_file_that_may_not_be_read_is_named_with_the_reason(root: Path, monkeypatch: Any) -> None:
    source = open_folder(root)

    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, whom no permission stops
    with pytest.raises(DataError, match=r"train/cat/0.jpg: cannot be read: Permission denied"):
        source.check_files(Shard())


def test_a_link_that_leads_nowhere_is_named(root: Path) -> None:
    (root / "train" / "cat" / "0.jpg").unlink()
    (root / "train" / "cat" / "0.jpg").symlink_to(root / "gone.jpg")
    with pytest.raises(DataError, match=r"train/cat/0.jpg: cannot be read: No such file"):
        open_folder(root).check_files(Shard())


def test_a_folder_that_may_not_be_read_is_named_with_the_reason(root: Path, monkeypatch: Any) -> None:
    def refuse(folder: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder_module.os, "scandir", refuse)
    with pytest.raises(DataError, match=r"train: cannot be read: Permission denied"):
        scan_splits(str(root))


def test_hidden_files_and_stray_files_beside_the_classes_are_ignored(root: Path) -> None:
    (root / "train" / "dog" / ".DS_Store").write_bytes(b"x")
    (root / "train" / "dog" / "._0.jpg").write_bytes(b"x")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "README").write_text("x")
    source = open_folder(root)
    source.check_files(Shard())
    assert (source.num_classes, source.num_train) == (2, 6)


def test_labels_follow_the_sorted_names_of_the_classes(root: Path) -> None:
    files = scan_splits(str(root)).train
    assert files.classes == ("cat", "dog")
    assert [files.name(position) for position in (0, 3)] == [
        str(root / "train" / name / "0.jpg") for name in ("cat", "dog")
    ]
    assert files.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_names_with_spaces_and_letters_of_any_language_are_read(root: Path) -> None:
    (root / "train" / "dog" / "0.jpg").rename(root / "train" / "dog" / "ein großer Hund.JPEG")
    source = open_folder(root)
    source.check_files(Shard())
    assert len(next(source.train(0, Shard(), 6, 0)).labels) == 6


def test_val_is_held_out_where_there_is_a_test_folder_and_else_a_share_of_train(root: Path) -> None:
    with_test = open_folder(root)
    assert [with_test.num_train, with_test.num_images("held_out"), with_test.num_images("test")] == [6, 6, 6]
    shutil.rmtree(root / "test")
    without = open_source(load_config(None, [f"data.path={root}", "data.held_out=0.34"]), CPU)
    assert [without.num_train, without.num_images("held_out"), without.num_images("test")] == [4, 2, 6]
