"""Models and data of one's own: what `register` takes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import wash_hpc.data
import wash_hpc.models
from tests.support import tiny_config
from wash_hpc.agreement import describe_sources
from wash_hpc.data import open_source, read_content
from wash_hpc.data.arrays import ArraySet, Images
from wash_hpc.errors import ConfigError, DataError
from wash_hpc.models import build_model


@pytest.fixture
def registries(monkeypatch):
    """What is registered in a test is known in that test alone."""
    monkeypatch.setattr(wash_hpc.models, "_OWN", dict(wash_hpc.models._OWN))
    monkeypatch.setattr(wash_hpc.models, "_OF_TEXT", list(wash_hpc.models._OF_TEXT))
    monkeypatch.setattr(wash_hpc.data, "_READERS", dict(wash_hpc.data._READERS))
    monkeypatch.setattr(wash_hpc.data, "_REGISTERED", set())


def some_set() -> ArraySet:
    pixels, labels = np.zeros((6, 1, 8, 8), np.uint8), np.arange(6) % 2
    images = Images(pixels, labels)
    return ArraySet(images, None, images, num_classes=2, mean=(0.5,), std=(0.25,))


@pytest.mark.usefixtures("registries")
def test_a_registered_model_is_built_listed_and_told_the_shape_of_its_images():
    asked = []

    @wash_hpc.models.register("linear")
    def linear(image_shape, num_classes, width):
        asked.append((image_shape, num_classes, width))
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(image_shape)), num_classes))

    model = build_model("linear", (1, 8, 8), 3, width=5)
    assert asked == [((1, 8, 8), 3, 5)]
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert "linear" in wash_hpc.models.model_names()
    sources = describe_sources(tiny_config("model.name=linear"), model)
    package = describe_sources(tiny_config(), build_model("resnet_small", (3, 8, 8), 2))
    digests = {what: digest for what, digest in sources.items() if what.endswith("builds model linear")}
    assert len(digests) == 1
    assert not set(digests.values()) & set(package.values()), "this file's, and not the package's nor torch's"


@pytest.mark.usefixtures("registries")
def test_a_registered_model_of_text_takes_no_images():
    @wash_hpc.models.register("bytes_to_bytes", of_text=True)
    def bytes_to_bytes(image_shape, num_classes, width):
        return nn.Embedding(256, num_classes)

    assert build_model("bytes_to_bytes", (16,), 256)(torch.zeros(2, 16, dtype=torch.int64)).shape == (2, 16, 256)
    with pytest.raises(ConfigError, match="takes text, not images"):
        build_model("bytes_to_bytes", (1, 8, 8), 2)


@pytest.mark.usefixtures("registries")
def test_a_function_that_gives_no_network_is_said_at_once():
    wash_hpc.models.register("nothing")(lambda image_shape, num_classes, width: None)
    with pytest.raises(ConfigError, match="gives a NoneType, not a network"):
        build_model("nothing", (1, 8, 8), 2)


@pytest.mark.parametrize("name", ["mlp", "torchvision.resnet18", "torchvision.mine"])
def test_a_model_that_there_is_cannot_be_registered_again(name):
    with pytest.raises(ValueError, match=f"there is a model {name} already"):
        wash_hpc.models.register(name)


@pytest.mark.parametrize("name", ["image_folder", "synthetic"])
def test_a_data_set_that_there_is_cannot_be_registered_again(name):
    with pytest.raises(ValueError, match=f"there is a data set {name} already"):
        wash_hpc.data.register(name)


@pytest.mark.usefixtures("registries")
def test_a_registered_set_is_read_with_the_configuration_and_opened():
    paths = []

    @wash_hpc.data.register("mine")
    def mine(config):
        paths.append(config.data.path)
        return some_set()

    config = tiny_config("data.name=mine", "data.path=/somewhere")
    source = open_source(config, torch.device("cpu"), read_content(config))
    assert paths == ["/somewhere"]
    assert (source.image_shape, source.num_classes, source.num_images("test")) == ((1, 8, 8), 2, 6)
    assert "mine" in wash_hpc.data.source_names()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda images: None, "gives a NoneType, not an ArraySet"),
        (lambda images: replace(images, mean=(0.5,) * 3), "mean=.*: expected a number for each of 1 channels"),
        (lambda images: replace(images, std=(0.0,)), "std=.*: expected a number"),
        (lambda images: replace(images, mean=0.5), "mean=0.5: expected a number for each of 1 channels"),
        (lambda images: replace(images, std=("a",)), "std=.*: expected a number"),
        (lambda images: replace(images, num_classes="two"), "num_classes=two: expected a whole number"),
        (lambda images: replace(images, train=(images.train.pixels, images.train.labels)), "train: it is a tuple"),
        (lambda images: replace(images, test=None), "test: it is a NoneType"),
        (
            lambda images: replace(images, train=replace(images.train, labels=images.train.labels.tolist())),
            "train: labels are a list: expected a NumPy array",
        ),
        (
            lambda images: replace(images, test=replace(images.test, pixels=images.test.pixels[..., :4])),
            r"test: images \(1, 8, 4\): expected \(1, 8, 8\), as in train",
        ),
        (lambda images: replace(images, num_classes=1), "train: labels from 0 to 1: expected 0 to 0"),
        (lambda images: replace(images, test=images.test.at(np.arange(0))), "test: there are no images in it"),
        (
            lambda images: replace(images, test=replace(images.test, pixels=images.test.pixels / 255)),
            r"test: pixels float64 \(6, 1, 8, 8\): expected uint8",
        ),
        (
            lambda images: replace(images, held_out=replace(images.test, labels=images.test.labels[1:])),
            r"held_out: labels int64 \(5,\): expected int64 \[6\]",
        ),
    ],
)
@pytest.mark.usefixtures("registries")
def test_a_registered_set_whose_parts_do_not_fit_is_refused_by_name(change, says):
    wash_hpc.data.register("mine")(lambda config: change(some_set()))
    with pytest.raises(DataError, match=f"^data.name=mine: .*{says}"):
        read_content(tiny_config("data.name=mine"))
