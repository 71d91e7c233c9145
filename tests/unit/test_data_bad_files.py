"""Image files that cannot be used, met in mid-epoch: named, or left out in a way that a restart repeats."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wash_hpc.config import load_config
from wash_hpc.data import open_source
from wash_hpc.data.bad_files import BadFiles, Request
from wash_hpc.data.folder import scan_splits
from wash_hpc.data.image_source import ImageSource
from wash_hpc.data.source import Batch, Shard, batch_positions
from wash_hpc.errors import DataError

CPU = torch.device("cpu")
NUM_CLASSES, IMAGES_PER_CLASS = 3, 4
NUM_TRAIN = NUM_CLASSES * IMAGES_PER_CLASS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Small photographs of noise, half of them PNG, in train and val; each is like no other."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(NUM_CLASSES):
            folder = tmp_path / split / str(label)
            folder.mkdir(parents=True)
            for number in range(IMAGES_PER_CLASS):
                image = Image.fromarray(random.integers(0, 256, (60, 70, 3), dtype=np.uint8))
                image.save(folder / f"{number}.{'png' if number % 2 else 'jpg'}")
    return tmp_path


def open_images(root: Path, *overrides: str) -> ImageSource:
    keys = [f"data.path={root}", "data.held_out=0", "data.image_size=16", "data.resize=20"]
    source = open_source(load_config(None, [*keys, *overrides]), CPU)
    assert isinstance(source, ImageSource)
    return source


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def only_the_mark_of_the_end_is_missing(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


def text_with_the_start_of_an_image(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:12] + b"this is a text")


def empty(file: Path) -> None:
    file.write_bytes(b"")


SPOILS: list[tuple[str, Callable[[Path], object], str]] = [
    ("0.jpg", cut, "this image cannot be decoded; is the file complete"),
    ("0.jpg", only_the_mark_of_the_end_is_missing, "this image cannot be decoded"),
    ("1.png", cut, "this image cannot be decoded"),
    ("0.jpg", text_with_the_start_of_an_image, "this image cannot be decoded"),
    ("1.png", text_with_the_start_of_an_image, "this image cannot be decoded"),
    ("0.jpg", empty, "the file is empty"),
    ("0.jpg", Path.unlink, "cannot be read: No such file"),
]


def equal(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("name", "spoil", "says"), SPOILS)
def test_a_bad_file_is_named_when_it_is_met(
    root: Path, split: str, name: str, spoil: Callable[[Path], object], says: str
) -> None:
    source = open_images(root)
    spoil(root / split / "1" / name)
    batches = source.train(0, Shard(), 4, 0) if split == "train" else source.evaluate("test", Shard(), 5)
    with pytest.raises(DataError, match=f"{split}/1/{name}: {says}"):
        list(islice(batches, 20))


@pytest.mark.parametrize("top", [0.0, 0.9])
def test_a_jpeg_that_is_cut_is_never_trained_on_wherever_the_window_is(root: Path, top: float) -> None:
    """DALI decodes a window above the cut without an error."""
    source = open_images(root)
    cut(root / "train" / "1" / "0.jpg")
    draws = np.zeros((1, 23), dtype=np.float32)
    draws[:, :20], draws[:, 20] = 0.2, top
    source._draw = lambda random, num_images: np.tile(draws, (num_images, 1))
    with pytest.raises(DataError, match=r"train/1/0.jpg: this image cannot be decoded"):
        list(islice(source.train(0, Shard(), 4, 0), 20))


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm(root: Path) -> None:
    whole = list(islice(open_images(root).train(0, Shard(), 4, 0), 6))
    for file in root.rglob("0.jpg"):
        file.write_bytes(file.read_bytes() + b"\0\0 made by a camera")
    source = open_images(root, "data.on_bad_file=skip")
    assert all(equal(*pair) for pair in zip(whole, source.train(0, Shard(), 4, 0), strict=False))
    assert source.skipped_files == []


@pytest.mark.parametrize(("name", "spoil", "says"), SPOILS)
def test_where_bad_files_are_skipped_the_next_good_one_of_the_batch_takes_the_place(
    root: Path, name: str, spoil: Callable[[Path], object], says: str
) -> None:
    files = scan_splits(str(root)).train
    culprits = [position for position in range(NUM_TRAIN) if files.name(position).endswith(f"/1/{name}")]
    plain = open_images(root, "data.augment=false")
    every = torch.cat([b.images for b in islice(plain.train(0, Shard(), NUM_TRAIN, 0), 1)])
    image_at = dict(zip(batch_positions(0, 0, 0, NUM_TRAIN, NUM_TRAIN).tolist(), every, strict=True))

    source = open_images(root, "data.augment=false", "data.on_bad_file=skip")
    spoil(root / "train" / "1" / name)
    source.check_files(Shard())
    for step, batch in enumerate(islice(source.train(5, Shard(), 4, 0), 9)):
        positions = batch_positions(0, 5, step, NUM_TRAIN, 4).tolist()
        for place, position in enumerate(positions):
            if position in culprits:
                position = positions[(place + 1) % 4]
            assert torch.equal(batch.images[place], image_at[position])
            assert batch.labels[place] == files.labels[position]
    assert source.skipped_files == [str(root / "train" / "1" / name)]


def test_each_image_keeps_the_window_of_its_place_when_another_is_skipped(root: Path) -> None:
    whole = list(islice(open_images(root).train(0, Shard(), 4, 0), 6))
    culprit = root / "train" / "2" / "2.jpg"
    cut(culprit)
    files = scan_splits(str(root)).train
    batches = list(islice(open_images(root, "data.on_bad_file=skip").train(0, Shard(), 4, 0), 6))
    changed = 0
    for step, (before, after) in enumerate(zip(whole, batches, strict=True)):
        for place, position in enumerate(batch_positions(0, 0, step, NUM_TRAIN, 4).tolist()):
            same = torch.equal(before.images[place], after.images[place])
            assert same == (files.name(position) != str(culprit))
            changed += not same
    assert changed == 2  # once an epoch


def test_a_run_that_starts_after_skips_goes_on_as_one_that_never_stopped(root: Path) -> None:
    for name in ("0/0.jpg", "0/1.png", "2/3.png"):
        cut(root / "train" / name)
    skip = "data.on_bad_file=skip"
    for replica in (Shard(), Shard(1, 2)):
        whole = list(islice(open_images(root, skip).train(0, replica, 6, 0), 11))
        for first_step in (1, 4, 7):
            rest = list(islice(open_images(root, skip).train(0, replica, 6, first_step), 11 - first_step))
            assert all(equal(*pair) for pair in zip(whole[first_step:], rest, strict=True))


def test_a_stream_in_which_the_bad_files_are_known_beforehand_equals_one_that_meets_them(root: Path) -> None:
    for name in ("1/0.jpg", "1/1.png"):
        cut(root / "train" / name)
    source = open_images(root, "data.on_bad_file=skip")
    first = list(islice(source.train(0, Shard(), 4, 0), 8))
    assert len(source.skipped_files) == 2
    again = list(islice(source.train(0, Shard(), 4, 0), 8))
    assert all(equal(*pair) for pair in zip(first, again, strict=True))


@pytest.mark.parametrize("num_parts", [1, 2])
def test_evaluation_leaves_bad_files_out_and_each_other_image_counts_once(root: Path, num_parts: int) -> None:
    whole = next(open_images(root).evaluate("test", Shard(), NUM_TRAIN))
    bad = ["0/0.jpg", "0/1.png", "1/2.jpg"]
    for name in bad:
        cut(root / "val" / name)
    kept = [position for position in range(NUM_TRAIN) if position not in (0, 1, 6)]
    source = open_images(root, "data.on_bad_file=skip")
    for _ in range(2):
        batches = [b for part in range(num_parts) for b in source.evaluate("test", Shard(part, num_parts), 2)]
        assert torch.equal(torch.cat([batch.images for batch in batches]), whole.images[kept])
        assert torch.equal(torch.cat([batch.labels for batch in batches]), whole.labels[kept])
        assert [len(batch.labels) for batch in batches] == [
            2,
            2,
            1,
            2,
            2,
        ]  # the first, of bad files alone, is not there
    assert sorted(source.skipped_files) == [str(root / "val" / name) for name in bad]


def test_statistics_are_of_the_good_images_alone_however_many_parts_there_are(root: Path) -> None:
    cut(root / "train" / "1" / "0.jpg")
    source = open_images(root, "data.on_bad_file=skip")
    whole, halves = (
        torch.cat([b.images for part in range(n) for b in source.statistics(NUM_TRAIN, Shard(part, n), 5)])
        for n in (1, 2)
    )
    assert len(whole) == NUM_TRAIN - 1
    assert torch.equal(whole, halves)


@pytest.mark.parametrize("split", ["train", "val"])
def test_where_nothing_is_good_training_stops_with_a_name_and_evaluation_has_no_batch(root: Path, split: str) -> None:
    source = open_images(root, "data.on_bad_file=skip")
    for file in (root / split).rglob("*.*"):
        cut(file)
    if split == "val":
        assert list(source.evaluate("test", Shard(), 5)) == []
        assert len(source.skipped_files) == NUM_TRAIN
        return
    with pytest.raises(DataError, match=r"train/.*: this image cannot be decoded.*all 4 images of this training batch"):
        next(source.train(0, Shard(), 4, 0))


def test_one_good_image_fills_a_batch(root: Path) -> None:
    source = open_images(root, "data.on_bad_file=skip", "data.augment=false")
    for file in (root / "train").rglob("*.*"):
        if file.parent.name != "2" or file.name != "3.png":
            cut(file)
    batch = next(source.train(0, Shard(), NUM_TRAIN, 0))
    assert batch.labels.tolist() == [2] * NUM_TRAIN
    assert all(torch.equal(image, batch.images[0]) for image in batch.images)


@given(st.lists(st.integers(0, 11), min_size=1, max_size=9, unique=True), st.sets(st.integers(0, 11)), st.booleans())
def test_what_a_batch_becomes_equals_the_slow_twin(positions: list[int], bad: set[int], fill: bool) -> None:
    class Twelve:
        are_paths = True

        def name(self, position: int) -> str:
            return str(position)

    files = BadFiles(Twelve(), skip=True)
    files._bad = dict.fromkeys(bad, "bad")
    draws = np.arange(len(positions), dtype=np.float32)[:, None].repeat(23, axis=1)
    good = [place for place, position in enumerate(positions) if position not in bad]
    if fill and not good:
        with pytest.raises(DataError, match=f"all {len(positions)} images"):
            files.without(Request(np.array(positions), draws), fill)
        return
    result = files.without(Request(np.array(positions), draws), fill)
    assert result.draws is not None
    if not fill:
        assert result.positions.tolist() == [positions[place] for place in good]
        assert result.draws[:, 0].tolist() == good
        return
    for place in range(len(positions)):
        taken = next(p % len(positions) for p in range(place, 2 * len(positions)) if p % len(positions) in good)
        assert result.positions[place] == positions[taken]
    assert np.array_equal(result.draws, draws)


def test_a_survey_refuses_images_that_it_cannot_read(root: Path) -> None:
    from wash_hpc.survey import _at_positions

    cut(root / "val" / "0" / "0.jpg")
    source = open_images(root, "data.on_bad_file=skip")
    with pytest.raises(DataError, match=re.escape("1 images cannot be read or decoded, and a survey needs all")):
        _at_positions(source.evaluate("test", Shard(), 5), range(NUM_TRAIN), np.arange(NUM_TRAIN))
