"""What members draw; erased and mixed batches against torchvision's own transforms, an image or a pair at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from tests.support import tiny_config
from wash_hpc.config import Config
from wash_hpc.data import open_source
from wash_hpc.data.regularize import (
    ERASED_AREAS,
    ERASED_RATIOS,
    Mix,
    Regularization,
    describe_regularization,
    draw_mix,
    draw_rectangles,
    erase,
    mix_pairs,
    regularization_of,
    regularize,
)
from wash_hpc.data.source import Batch, Shard

CPU = torch.device("cpu")
ALONE = Shard()
CIFAR = [
    "train.mixup=[0,0.5,1]",
    "train.cutmix=[0,0.5,1]",
    "train.label_smoothing=[0,0.05,0.1]",
    "train.random_erasing=[0,0.15,0.35]",
]
ALL_ON = ["train.mixup=0.5", "train.cutmix=1", "train.label_smoothing=0.1", "train.random_erasing=0.5"]


def numbers(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def make_batch(num_images: int, height: int = 6, width: int = 7, num_classes: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(num_images)
    images = torch.randn(num_images, 3, height, width, generator=generator)
    return Batch(images, torch.randint(num_classes, (num_images,), generator=generator))


def train_batches(config: Config, member: int = 0, replica: Shard = ALONE, first_step: int = 0) -> Iterator[Batch]:
    source = open_source(config, CPU)
    batches = source.train(member, replica, config.data.batch_size, first_step)
    return regularize(batches, config, member, replica, first_step, source.num_classes)


def equal(first: Batch, second: Batch) -> bool:
    assert first.shares is not None
    assert second.shares is not None
    pairs = ((first.images, second.images), (first.labels, second.labels), (first.shares, second.shares))
    return all(torch.equal(a, b) for a, b in pairs)


def join(batches: tuple[Batch, ...]) -> Batch:
    shares = [batch.shares for batch in batches if batch.shares is not None]
    return Batch(torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches]), torch.cat(shares))


# What members draw


def test_members_draw_different_combinations_as_long_as_there_are_some_left():
    config = tiny_config(*CIFAR)
    drawn = [regularization_of(config, member) for member in range(81)]
    everything = product((0, 0.5, 1), (0, 0.5, 1), (0, 0.05, 0.1), (0, 0.15, 0.35))
    assert set(drawn) == {Regularization(*values) for values in everything}


def test_members_beyond_the_last_combination_draw_them_again_in_the_same_order():
    config = tiny_config("train.mixup=[0,1]", "train.random_erasing=[0.1,0.2,0.3]")
    drawn = [regularization_of(config, member) for member in range(15)]
    assert drawn[6:12] == drawn[:6]
    assert drawn[12:] == drawn[:3]


def test_each_member_is_as_likely_to_draw_one_combination_as_any_other():
    config = tiny_config("train.mixup=[0,1]", "train.cutmix=[0,0.5,1]")
    seeds = [replace(config, run=replace(config.run, seed=seed)) for seed in range(6000)]
    for member in (0, 3, 6):
        counts = Counter(regularization_of(config, member) for config in seeds)
        assert len(counts) == 6
        chi_squared = sum((count - 1000) ** 2 / 1000 for count in counts.values())
        assert chi_squared < 20.5  # 99.9 % of what five degrees of freedom give


def test_what_a_member_draws_depends_on_the_seed_and_its_number_alone():
    first = [regularization_of(tiny_config(*CIFAR, "run.seed=7"), member) for member in (4, 0, 2)]
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - what must not matter
    again = [regularization_of(tiny_config(*CIFAR, "run.seed=7", "ensemble.members=9"), member) for member in (4, 0, 2)]
    assert first == again
    assert first != [regularization_of(tiny_config(*CIFAR, "run.seed=8"), member) for member in (4, 0, 2)]


def test_what_members_drew_is_said_in_words():
    assert describe_regularization(tiny_config(), 3) == ""
    said = describe_regularization(tiny_config("train.mixup=[0,0.5]", "train.label_smoothing=[0]"), 2)
    assert sorted(part.split(": ")[1] for part in said.split("; ")) == ["mixup 0.5", "none"]
    assert describe_regularization(tiny_config(*ALL_ON), 1) == (
        "member 0: mixup 0.5, cutmix 1, label smoothing 0.1, random erasing 0.5"
    )


# Random erasing


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 40), st.integers(1, 40))
def test_erased_images_equal_torchvisions_erased_one_by_one_bit_for_bit(
    seed: int, num_images: int, height: int, width: int
) -> None:
    images = torch.randn(num_images, 3, height, width, generator=torch.Generator().manual_seed(seed))
    before = images.clone()
    rectangles = draw_rectangles(numbers(seed), num_images, height, width, 0.8)
    erased = erase(images, torch.from_numpy(rectangles))
    for image, result, (top, bottom, left, right) in zip(images, erased, rectangles.tolist(), strict=True):
        zero = torch.zeros(1)
        assert torch.equal(result, v2.functional.erase(image, top, left, bottom - top, right - left, zero))
    assert torch.equal(images, before)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (60, 100), (20, 100)])
def test_rectangles_have_the_distribution_of_torchvisions_random_erasing(height: int, width: int) -> None:
    ours = draw_rectangles(numbers(), 20_000, height, width, 1.0)
    torchvision = v2.RandomErasing(p=1.0, scale=ERASED_AREAS, ratio=ERASED_RATIOS)
    torch.manual_seed(0)
    theirs = np.array(
        [
            [p["i"], p["i"] + p["h"], p["j"], p["j"] + p["w"]] if p["v"] is not None else [0] * 4
            for p in (torchvision.make_params([torch.zeros(3, height, width)]) for _ in range(2500))
        ]
    )
    figures = []
    for top, bottom, left, right in (ours.T, theirs.T):
        there = bottom > top
        area = (bottom - top) * (right - left)
        ratio = np.log((bottom - top)[there] / (right - left)[there])
        figures.append([there, area, area**2, top, left, ratio, ratio**2])
    for our, their in zip(*figures, strict=True):
        error = np.sqrt(our.var() / len(our) + their.var() / len(their))
        assert abs(our.mean() - their.mean()) <= 4 * error


def test_as_many_images_are_erased_as_the_probability_says_each_in_its_own_place() -> None:
    rectangles = draw_rectangles(numbers(), 20_000, 32, 32, 0.35)
    height, width = rectangles[:, 1] - rectangles[:, 0], rectangles[:, 3] - rectangles[:, 2]
    erased = height > 0
    assert abs(erased.mean() - 0.35) < 4 * np.sqrt(0.35 * 0.65 / 20_000)
    assert (width[erased] > 0).all()
    assert not width[~erased].any()
    assert rectangles.min() >= 0
    assert rectangles.max() <= 32
    assert max(height.max(), width.max()) < 32
    assert len({tuple(row) for row in rectangles[erased]}) > 5000


# Mixup and CutMix


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_mixed_pairs_equal_torchvisions_batches_of_two_bit_for_bit(
    seed: int, num_pairs: int, height: int, width: int, cuts: bool
) -> None:
    batch = make_batch(2 * num_pairs, height, width)
    mix = draw_mix(numbers(seed), 0.0 if cuts else 0.7, 0.7 if cuts else 0.0, height, width)
    mixed = mix_pairs(batch, mix, num_classes=5)
    assert mixed.shares is not None
    if mix.rectangle is None:
        torchvision, params = v2.MixUp(num_classes=5), {"lam": mix.share}
    else:
        top, bottom, left, right = mix.rectangle
        torchvision, params = v2.CutMix(num_classes=5), {"box": (left, top, right, bottom), "lam_adjusted": mix.share}
    for start in range(0, 2 * num_pairs, 2):
        images, labels = batch.images[start : start + 2], batch.labels[start : start + 2]
        everything = {"labels": labels, "batch_size": 2, **params}
        assert torch.equal(mixed.images[start : start + 2], torchvision.transform(images, everything))
        assert torch.equal(mixed.shares[start : start + 2], torchvision.transform(labels, everything))


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_shares_of_classes_are_the_shares_of_the_pixels_exactly(seed: int, height: int, width: int, cuts: bool) -> None:
    """One image of a pair is black and of class 0, the other white and of class 1."""
    batch = Batch(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, height, width), torch.tensor([0, 1]))
    mixed = mix_pairs(batch, draw_mix(numbers(seed), 0.0 if cuts else 0.6, 0.6 if cuts else 0.0, height, width), 2)
    assert mixed.shares is not None
    if cuts:
        from_partner = int(mixed.images[0].sum())
        assert int(mixed.images[1].sum()) == height * width - from_partner
        own = 1 - from_partner / (height * width)
        assert torch.equal(mixed.shares, torch.tensor([[own, 1 - own], [1 - own, own]]))
    else:
        assert torch.equal(mixed.images, mixed.shares[:, 1].view(2, 1, 1, 1).expand_as(mixed.images))


@pytest.mark.parametrize("a", [0.1, 0.5, 1.0, 4.0])
def test_shares_of_mixup_have_the_moments_of_their_beta_distribution(a: float) -> None:
    random = numbers()
    shares = np.array([draw_mix(random, a, 0.0, 8, 8).share for _ in range(20_000)])
    centred = (shares - 0.5) ** 2
    assert abs(shares.mean() - 0.5) < 4 * shares.std() / np.sqrt(20_000)
    assert abs(centred.mean() - 1 / (4 * (2 * a + 1))) < 4 * centred.std() / np.sqrt(20_000)


@pytest.mark.parametrize("a", [0.5, 1.0])
def test_rectangles_of_cutmix_have_the_distribution_of_torchvisions(a: float) -> None:
    random = numbers()
    ours = []
    for _ in range(8000):
        mix = draw_mix(random, 0.0, a, 20, 30)
        assert mix.rectangle is not None
        ours.append([*mix.rectangle, mix.share, mix.share**2])
    torchvision = v2.CutMix(alpha=a, num_classes=2)
    torch.manual_seed(0)
    theirs = []
    for _ in range(4000):
        params = torchvision.make_params([torch.zeros(1, 3, 20, 30)])
        left, top, right, bottom = params["box"]
        theirs.append([top, bottom, left, right, params["lam_adjusted"], params["lam_adjusted"] ** 2])
    our, their = np.array(ours), np.array(theirs)
    error = np.sqrt(our.var(0) / len(our) + their.var(0) / len(their))
    assert (np.abs(our.mean(0) - their.mean(0)) < 4 * error).all()


def test_where_both_are_on_half_of_the_batches_are_cut_and_half_are_mixed_up():
    random = numbers()
    cut = np.array([draw_mix(random, 0.5, 0.5, 8, 8).rectangle is not None for _ in range(4000)])
    assert abs(cut.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


@pytest.mark.parametrize("mix", [Mix(0.7, None), Mix(0.3, None), Mix(0.75, (0, 3, 0, 4)), Mix(0.25, (0, 6, 0, 6))])
def test_the_label_of_a_mixed_image_is_the_class_of_its_larger_share(mix: Mix) -> None:
    batch = make_batch(8)
    mixed = mix_pairs(batch, mix, 5)
    assert mixed.shares is not None
    assert torch.equal(mixed.labels, mixed.shares.argmax(1))


# Whole streams of batches


def test_batches_are_the_very_same_where_nothing_is_on():
    batches = [make_batch(8) for _ in range(3)]
    config = tiny_config("train.label_smoothing=0.1")
    assert all(a is b for a, b in zip(regularize(iter(batches), config, 0, Shard(), 0, 5), batches, strict=True))


@pytest.mark.parametrize("num_replicas", [2, 3])
def test_replicas_together_see_bit_for_bit_what_one_replica_sees(num_replicas: int) -> None:
    config = tiny_config(*ALL_ON, "data.batch_size=12")
    parts = zip(*(train_batches(config, replica=Shard(r, num_replicas)) for r in range(num_replicas)), strict=True)
    for whole, part in islice(zip(train_batches(config), parts, strict=True), 6):
        assert equal(whole, join(part))


def test_a_stream_that_starts_later_goes_on_as_one_that_never_stopped():
    config = tiny_config(*ALL_ON)
    whole = list(islice(train_batches(config), 9))
    rest = list(islice(train_batches(config, first_step=4), 5))
    assert all(equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    shares = [batch.shares for batch in whole if batch.shares is not None]
    assert not any(torch.equal(a, b) for a, b in pairwise(shares))


def test_two_members_mix_and_erase_differently():
    plain = tiny_config("data.augment=false")
    config = tiny_config("data.augment=false", *ALL_ON)
    source = open_source(plain, CPU)
    same = next(source.train(0, Shard(), 8, 0))
    zero, one = (next(regularize(iter([same]), config, member, Shard(), 0, 4)) for member in (0, 1))
    assert not equal(zero, one)
