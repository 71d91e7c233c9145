"""Whole pipelines side by side: torchvision's ImageFolder, transforms and loader, and ours, on files like ImageNet's.

A network that is evaluated through another decoder or another filter loses accuracy without a word; so the same network
must say the same of the same files.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.transforms import functional

from tests.support import AloneReducer
from wash_hpc.config import Config, load_config
from wash_hpc.data import open_source
from wash_hpc.data.augment import MIRROR, draw_windows, first_valid_window
from wash_hpc.data.source import Shard, batch_positions
from wash_hpc.ensemble.flat import Flat, get_statistics
from wash_hpc.ensemble.soup import Weights
from wash_hpc.evaluate import Evaluator
from wash_hpc.seeds import Stream, generator

CPU = torch.device("cpu")
NUM_CLASSES, IMAGES_PER_CLASS = 6, 6
NUM_IMAGES = NUM_CLASSES * IMAGES_PER_CLASS
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the defaults of data.mean and data.std


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training images of a small `imagenet-like` set, which are the test images, too."""
    made = tmp_path_factory.mktemp("data") / "photos"
    sizes = ["--classes", str(NUM_CLASSES), "--images-per-class", str(IMAGES_PER_CLASS)]
    subprocess.run([sys.executable, "tools/make_dataset.py", "imagenet-like", str(made), *sizes], check=True)
    folder = tmp_path_factory.mktemp("parity")
    for split in ("train", "val"):
        (folder / split).symlink_to(made / "train")
    return folder


@pytest.fixture(scope="module")
def config(root: Path) -> Config:
    keys = ["data.held_out=0", "evaluate.batch_size=16", "evaluate.statistics_images=8"]
    return load_config(None, [f"data.path={root}", *keys])


@pytest.fixture(scope="module")
def torchvisions(root: Path) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 224, 224] and labels [N] as torchvision's own evaluation has them."""
    transform = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    loader = DataLoader(torchvision.datasets.ImageFolder(str(root / "val"), transform), batch_size=16)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def trained(images: Tensor, labels: Tensor) -> tuple[nn.Module, Tensor]:
    """A ResNet-18 with statistics of such images, whose last layer alone is trained, on two thirds of these.

    Returns:
        The network, and what it says of all images: [N, C].
    """
    torch.manual_seed(1)  # with this one no image is nearly a tie
    model = torchvision.models.resnet18(num_classes=NUM_CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()
        model(images[::2])
        model.eval()
        features = nn.Sequential(*list(model.children())[:-1])(images).flatten(1)
    seen = torch.arange(len(labels)) % 3 > 0
    optimizer = torch.optim.Adam(model.fc.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.fc(features[seen]), labels[seen]).backward()
        optimizer.step()
    with torch.no_grad():
        return model, model.fc(features)


def test_a_network_says_the_same_of_files_through_dali_as_through_torchvision(
    config: Config, torchvisions: tuple[Tensor, Tensor]
) -> None:
    images, labels = torchvisions
    model, expected = trained(images, labels)
    said: list[Tensor] = []
    scratch = torchvision.models.resnet18(num_classes=NUM_CLASSES)
    scratch.register_forward_hook(lambda module, inputs, logits: said.append(logits))
    evaluator = Evaluator(config, open_source(config, CPU), scratch, 1, Shard(), AloneReducer())
    evaluation = evaluator.evaluate(lambda member: Weights(Flat(model).values.clone(), get_statistics(model)))
    ours = torch.cat(said)[:NUM_IMAGES]  # the member is judged first

    top = expected.topk(2).values
    margins = top[:, 0] - top[:, 1]
    assert len(expected.argmax(1).unique()) >= 4
    assert margins.min() > 2 * (ours - expected).abs().max()  # that they agree is no luck
    assert (ours - expected).abs().mean() < 0.01 * margins.median()  # without antialiasing it is 0.12
    assert torch.equal(ours.argmax(1), expected.argmax(1))
    accuracy = float((expected.argmax(1) == labels).double().mean())
    assert evaluation.member_accuracy == [accuracy]
    assert 1.5 / NUM_CLASSES < accuracy < 1


def test_evaluated_images_are_torchvisions_whatever_their_size(
    config: Config, torchvisions: tuple[Tensor, Tensor]
) -> None:
    batches = open_source(config, CPU).evaluate("test", Shard(), 16)
    ours = torch.cat([batch.images for batch in batches])
    difference = (ours - torchvisions[0]).abs() * torch.tensor(STD).view(3, 1, 1)  # of the pixel range
    assert difference.mean(dim=(1, 2, 3)).max() < 2 / 255


def test_training_windows_of_files_like_imagenets_are_torchvisions(config: Config, root: Path) -> None:
    files = torchvision.datasets.ImageFolder(str(root / "train"))
    batch = next(open_source(config, CPU).train(2, Shard(), 18, 1))
    draws = draw_windows(generator(0, Stream.AUGMENT, 2, 1), 18, (0.08, 1.0), True)
    for image, position, numbers in zip(
        batch.images, batch_positions(0, 2, 1, NUM_IMAGES, 18).tolist(), draws, strict=True
    ):
        photo, _ = files[position]
        window = first_valid_window(numbers, photo.height, photo.width)
        expected = functional.to_tensor(functional.resized_crop(photo, *window, [224, 224], antialias=True))
        if numbers[MIRROR]:
            expected = expected.flip(2)
        difference = (image - functional.normalize(expected, MEAN, STD)).abs() * torch.tensor(STD).view(3, 1, 1)
        assert difference.mean() < 2 / 255, (files.samples[position], window)
