"""Which images each rank sees, and when: the laws of the order, for sets in memory, folders, shards, and text."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wash_hpc.config import Config, load_config
from wash_hpc.data import open_source
from wash_hpc.data.source import (
    Batch,
    Shard,
    Source,
    batch_positions,
    choose_trained,
    epoch_order,
    iterate_positions,
    split_held_out,
    steps_per_epoch,
)
from wash_hpc.errors import ConfigError

CPU = torch.device("cpu")
NUM_CLASSES = 3
NUM_TRAIN, NUM_TEST = 24, 17


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of random pixels; the mean of an image tells which it is."""
    root = tmp_path_factory.mktemp("folder")
    random = np.random.default_rng(0)
    for split, num_images in (("train", NUM_TRAIN), ("val", 5), ("test", NUM_TEST)):
        for number in range(num_images):
            of_class = root / split / f"class{number % NUM_CLASSES}"
            of_class.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(of_class / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random bytes, so that no two windows are alike."""
    file = tmp_path_factory.mktemp("text") / "text"
    file.write_bytes(np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8).tobytes())
    return file


@pytest.fixture(scope="module")
def shards(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files in shards."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    command = [sys.executable, "tools/make_dataset.py", "shards", folder, out, "--images-per-shard", "10"]
    subprocess.run(list(map(str, command)), check=True)
    return out


@pytest.fixture(params=["synthetic", "image_folder", "shards", "text"])
def config(request: pytest.FixtureRequest, folder: Path, shards: Path, text: Path) -> Config:
    return load_config(
        None,
        [
            f"data.name={request.param}",
            f"data.path={ {'text': text, 'shards': shards}.get(request.param, folder) }",
            "data.batch_size=4",
            "data.context=16",
            "data.image_size=16",
            "data.resize=16",
            f"data.num_images={NUM_TRAIN}",
            f"data.num_classes={NUM_CLASSES}",
            "data.held_out=0.2",
            "data.workers=1",
        ],
    )


@pytest.fixture
def source(config: Config) -> Source:
    return open_source(config, CPU)


def equal(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def joined(batches: list[Batch]) -> Batch:
    return Batch(torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches]))


def fingerprints(batch: Batch) -> list[float]:
    return sorted(batch.images.double().flatten(1).std(dim=1).tolist())


@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 9))
def test_an_epoch_is_a_permutation_of_the_whole_training_set(num_train: int, member: int, epoch: int) -> None:
    assert sorted(epoch_order(7, member, epoch, num_train)) == list(range(num_train))


def test_members_and_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [epoch_order(seed, member, epoch, 50) for seed in (0, 1) for member in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == len(orders)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 60))
def test_positions_from_any_step_on_are_those_of_a_run_that_never_stopped(
    num_train: int, batch_size: int, first_step: int
) -> None:
    if batch_size > num_train:
        with pytest.raises(ConfigError, match=r"data.batch_size"):
            steps_per_epoch(num_train, batch_size)
        return
    for step, positions in islice(iterate_positions(3, 1, first_step, num_train, batch_size), 5):
        assert np.array_equal(positions, batch_positions(3, 1, step, num_train, batch_size))


@given(st.integers(0, 50), st.integers(1, 8))
def test_parts_cover_everything_once_and_differ_by_at_most_one(num_items: int, num_parts: int) -> None:
    parts = [Shard(part, num_parts).of(num_items) for part in range(num_parts)]
    assert [item for part in parts for item in part] == list(range(num_items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(0, 60), st.floats(0, 0.99))
def test_the_held_out_split_divides_the_training_set(num_images: int, share: float) -> None:
    kept, held_out = split_held_out(0, num_images, share)
    assert sorted([*kept, *held_out]) == list(range(num_images))
    assert len(held_out) == round(num_images * share)


@given(st.integers(1, 60), st.floats(0.001, 1), st.floats(0.001, 1))
def test_a_smaller_share_of_the_training_set_is_part_of_a_larger_one(num_images: int, one: float, other: float) -> None:
    small, large = (choose_trained(num_images, share) for share in sorted((one, other)))
    assert set(small) <= set(large) <= set(range(num_images))
    assert len(small) == max(1, round(num_images * min(one, other)))


def test_a_share_of_the_training_images_is_trained_on_and_leaves_the_other_splits_alone(config: Config) -> None:
    plain = [*_overrides(config), "data.augment=false", "data.flip=false"]
    whole, half = (open_source(load_config(None, [*plain, *more]), CPU) for more in ([], ["data.train_share=0.5"]))
    assert abs(half.num_train - whole.num_train / 2) <= 1
    seen, every = ({*fingerprints(joined(epoch(source)))} for source in (half, whole))
    assert len(seen) == half.num_train
    assert seen < every
    for split in ("test", "held_out"):
        assert equal(*(joined(list(source.evaluate(split, Shard(), 4))) for source in (half, whole)))


def epoch(source: Source) -> list[Batch]:
    return list(islice(source.train(0, Shard(), 1, 0), source.num_train))


@pytest.mark.parametrize("num_replicas", [2, 3, 4])
def test_replicas_together_see_exactly_the_batch_of_one_replica(source: Source, num_replicas: int) -> None:
    whole = list(islice(source.train(1, Shard(), 10, 2), 3))
    parts = [list(islice(source.train(1, Shard(part, num_replicas), 10, 2), 3)) for part in range(num_replicas)]
    for step in range(3):
        assert equal(joined([part[step] for part in parts]), whole[step])


def test_training_from_any_step_on_equals_a_run_that_never_stopped(source: Source) -> None:
    straight = list(islice(source.train(0, Shard(), 7, 0), 8))
    for first_step in (1, 3, 6):  # within an epoch and across its end
        resumed = islice(source.train(0, Shard(), 7, first_step), 2)
        assert all(equal(*pair) for pair in zip(resumed, straight[first_step:], strict=False))


def test_members_see_different_batches_and_different_crops(source: Source) -> None:
    one, other = (next(source.train(member, Shard(), 8, 0)) for member in (0, 1))
    assert not torch.equal(one.images, other.images)


def test_an_epoch_shows_every_training_image_once(config: Config) -> None:
    plain = load_config(None, [*_overrides(config), "data.augment=false", "data.flip=false"])
    source = open_source(plain, CPU)
    batch_size = 4 if source.num_train % 4 == 0 else 1
    epochs = source.train(0, Shard(), batch_size, 0)
    per_epoch = source.num_train // batch_size
    first, second = (joined(list(islice(epochs, per_epoch))) for _ in range(2))
    assert fingerprints(first) == fingerprints(second)
    assert len(set(fingerprints(first))) == source.num_train
    assert not torch.equal(first.images, second.images)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 5, 100])
def test_evaluation_shows_every_image_once_whatever_the_shards_and_the_batch_size(
    source: Source, num_shards: int, batch_size: int
) -> None:
    for split in ("test", "held_out"):
        whole = joined(list(source.evaluate(split, Shard(), 7)))
        parts = [
            batch for part in range(num_shards) for batch in source.evaluate(split, Shard(part, num_shards), batch_size)
        ]
        assert len(whole.labels) == source.num_images(split) > 0
        assert equal(joined(parts), whole)


def test_evaluation_of_an_empty_part_gives_no_batch(source: Source) -> None:
    num_images = source.num_images("held_out")
    assert list(source.evaluate("held_out", Shard(0, num_images + 1), 4)) == []


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4])
def test_statistics_are_the_same_choice_however_many_shards(source: Source, num_shards: int) -> None:
    whole = joined(list(source.statistics(11, Shard(), 4)))
    parts = [batch for part in range(num_shards) for batch in source.statistics(11, Shard(part, num_shards), 3)]
    assert len(whole.labels) == 11
    assert equal(joined(parts), whole)


def test_statistics_of_more_images_than_there_are_take_all(source: Source) -> None:
    assert sum(len(batch.labels) for batch in source.statistics(10_000, Shard(), 16)) == source.num_train


def test_a_batch_larger_than_the_training_set_is_refused_when_training_starts(source: Source) -> None:
    with pytest.raises(ConfigError, match=r"data.batch_size=1000.*only \d+ images"):
        source.train(0, Shard(), 1000, 0)


def test_batches_have_the_promised_shapes_and_types(source: Source) -> None:
    batch = next(source.train(0, Shard(), 6, 0))
    assert batch.images.shape == (6, *source.image_shape)
    is_text = len(source.image_shape) == 1
    assert (batch.images.dtype, batch.labels.dtype) == (torch.int64 if is_text else torch.float32, torch.int64)
    assert batch.labels.shape == (batch.images.shape if is_text else (6,))
    assert 0 <= int(batch.labels.min()) <= int(batch.labels.max()) < source.num_classes
    assert source.num_classes == (256 if is_text else NUM_CLASSES)


def test_a_batch_stays_valid_after_the_next_ones_and_after_the_source(source: Source) -> None:
    batches = source.train(0, Shard(), 8, 0)
    kept = list(islice(batches, 2))
    copies = [Batch(batch.images.clone(), batch.labels.clone()) for batch in kept]
    for _ in islice(batches, 20):
        pass
    del batches
    assert all(equal(*pair) for pair in zip(kept, copies, strict=True))


def _overrides(config: Config) -> list[str]:
    data = config.data
    data_set = ("name", "path", "batch_size", "held_out", "workers")
    keys = (*data_set, "context", "image_size", "resize", "num_images", "num_classes")
    return [f"data.{key}={getattr(data, key)}" for key in keys]
