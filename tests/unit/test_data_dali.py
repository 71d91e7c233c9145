"""DALI's images against torchvision's, on real photographs in several formats."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import fn, types
from nvidia.dali.backend import GetSchema
from nvidia.dali.pipeline import Pipeline
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms
from torchvision.transforms import functional

from wash_hpc.config import load_config
from wash_hpc.data import open_source
from wash_hpc.data.augment import MIRROR, draw_windows, first_valid_window
from wash_hpc.data.dali import decoding, random_window
from wash_hpc.data.folder import scan_splits
from wash_hpc.data.image_source import ImageSource
from wash_hpc.data.regularize import regularize
from wash_hpc.data.source import Batch, Shard, batch_positions
from wash_hpc.errors import DataError
from wash_hpc.seeds import Stream, generator

CPU = torch.device("cpu")
TOLERANCE = 2 / 255  # of the pixel range, mean over an image


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs, each in the forms that a folder of images may hold."""
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val"):
        for label, pixels in enumerate(load_sample_images().images):
            folder = root / split / f"photo{label}"
            folder.mkdir(parents=True)
            photo = Image.fromarray(pixels)
            photo.save(folder / "colour.jpg", quality=95)
            photo.convert("L").save(folder / "grey.JPEG", quality=95)
            photo.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
            photo.rotate(90, expand=True).save(folder / "upright.webp", quality=95)
            photo.crop((40, 30, 301, 402)).save(folder / "odd.png")
            photo.resize((1000, 130)).save(folder / "wide.bmp")
            photo.save(folder / "turned.jpg", quality=95, exif=_turned())
    return root


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees, which torchvision's loader does not do
    return exif


def open_photos(photos: Path, *overrides: str) -> ImageSource:
    keys = [f"data.path={photos}", "data.mean=[0,0,0]", "data.std=[1,1,1]", "data.held_out=0", *overrides]
    source = open_source(load_config(None, keys), CPU)
    assert isinstance(source, ImageSource)
    return source


def read(path: str) -> Image.Image:
    return Image.open(path).convert("RGB")


def test_evaluation_equals_torchvisions_resize_and_centre_crop(photos: Path) -> None:
    source = open_photos(photos)
    torchvision = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    images = torch.cat([batch.images for batch in source.evaluate("test", Shard(), 5)])
    files = scan_splits(str(photos)).test
    for position, image in enumerate(images):
        difference = (image - torchvision(read(files.name(position)))).abs()
        assert difference.mean() < TOLERANCE, files.name(position)
        assert difference.max() < 3 * TOLERANCE, files.name(position)


def test_training_crops_equal_torchvisions_for_the_same_windows(photos: Path) -> None:
    source = open_photos(photos)
    files, num_images = scan_splits(str(photos)).train, source.num_train
    for step, batch in enumerate(islice(source.train(3, Shard(), num_images, 0), 3)):
        draws = draw_windows(generator(0, Stream.AUGMENT, 3, step), num_images, (0.08, 1.0), True)
        for image, position, numbers in zip(
            batch.images, batch_positions(0, 3, step, num_images, num_images), draws, strict=True
        ):
            photo = read(files.name(position))
            window = first_valid_window(numbers, photo.height, photo.width)
            expected = transforms.ToTensor()(functional.resized_crop(photo, *window, [224, 224], antialias=True))
            if numbers[MIRROR]:
                expected = expected.flip(2)
            assert (image - expected).abs().mean() < TOLERANCE, (files.name(position), window)


def test_without_augmentation_training_shows_what_evaluation_shows(photos: Path) -> None:
    source = open_photos(photos, "data.augment=false")
    tested = torch.cat([batch.images for batch in source.evaluate("test", Shard(), 100)])
    trained = next(source.train(0, Shard(), source.num_train, 0)).images
    assert torch.equal(trained, tested[torch.from_numpy(batch_positions(0, 0, 0, len(tested), len(tested)))])


def test_images_are_normalised_by_the_configured_mean_and_deviation(photos: Path) -> None:
    plain = next(open_photos(photos).evaluate("test", Shard(), 4)).images
    normalised = next(
        open_photos(photos, "data.mean=[0.1,0.2,0.3]", "data.std=[0.5,0.6,0.7]").evaluate("test", Shard(), 4)
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
    torch.testing.assert_close(normalised.images, (plain - mean) / std, atol=1e-5, rtol=1e-5)


def test_images_from_files_are_mixed_and_erased_as_any_others(photos: Path) -> None:
    keys = [f"data.path={photos}", "data.batch_size=6", "train.mixup=0.5", "train.cutmix=1", "train.random_erasing=1"]
    config, source = load_config(None, keys), open_photos(photos)
    plain = [Batch(b.images.clone(), b.labels.clone()) for b in islice(source.train(1, Shard(), 6, 2), 5)]
    expected = regularize(iter(plain), config, 1, Shard(), 2, 2)
    batches = regularize(source.train(1, Shard(), 6, 2), config, 1, Shard(), 2, 2)
    for before, slow, batch in zip(plain, expected, list(islice(batches, 5)), strict=True):
        assert batch.shares is not None
        assert slow.shares is not None
        assert torch.equal(batch.images, slow.images)
        assert torch.equal(batch.shares, slow.shares)
        assert not torch.equal(batch.images, before.images)


def test_dalis_window_arithmetic_equals_the_slow_twin_for_images_of_all_shapes() -> None:
    random = np.random.default_rng(0)
    num_images = 3000
    sizes = np.exp(random.uniform(0, np.log(5000), size=(num_images, 2))).astype(np.int32)
    draws = draw_windows(random, num_images, (0.08, 1.0), True)
    pipeline = Pipeline(batch_size=num_images, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        sides = fn.external_source(name="sides", dtype=types.INT32, ndim=1)
        numbers = fn.external_source(name="numbers", dtype=types.FLOAT, ndim=1)
        pipeline.set_outputs(*random_window(sides[0], sides[1], numbers))
    corners, shapes = (np.array(output.as_tensor()) for output in pipeline.run(sides=sizes, numbers=draws))
    expected = [first_valid_window(row, *map(int, size)) for row, size in zip(draws, sizes, strict=True)]
    assert np.array_equal(np.concatenate([corners, shapes], axis=1), expected)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_that_is_truncated_is_named_when_it_is_met(photos: Path, tmp_path: Path, split: str) -> None:
    for source_file in photos.rglob("*.*"):
        target = tmp_path / source_file.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source_file, target)
    culprit = tmp_path / split / "photo1" / "odd.png"
    content = culprit.read_bytes()
    culprit.unlink()
    culprit.write_bytes(content[: len(content) // 2])
    source = open_photos(tmp_path)
    source.check_files(Shard())  # the first bytes are those of an image
    batches = source.train(0, Shard(), 14, 0) if split == "train" else source.evaluate("test", Shard(), 4)
    with pytest.raises(DataError, match=r"photo1/odd.png: this image cannot be decoded"):
        list(islice(batches, 20))


def test_an_image_that_vanishes_is_named_when_it_is_met(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(3):
            folder = tmp_path / split / "one"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (300, 300)).save(folder / f"{number}.jpg")
    source = open_photos(tmp_path)
    gone = tmp_path / "train" / "one" / "1.jpg"
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone}: cannot be read: No such file"):
        next(source.train(0, Shard(), 3, 0))


@pytest.mark.parametrize("prefetch", [1, 2, 6])
def test_how_far_dali_works_ahead_changes_no_image(photos: Path, prefetch: int) -> None:
    expected = list(islice(open_photos(photos).train(1, Shard(), 5, 0), 4))
    batches = list(islice(open_photos(photos, f"data.prefetch={prefetch}").train(1, Shard(), 5, 0), 4))
    assert all(torch.equal(one.images, other.images) for one, other in zip(expected, batches, strict=True))


@pytest.mark.parametrize("operator", ["decoders__Image", "decoders__ImageSlice"])
def test_dalis_decoders_know_every_option_that_they_are_given_on_a_gpu(operator: str) -> None:
    data = load_config(None, ["data.hw_decoder_share=0.8", "data.decoder_size_hint=[3000,4000]"]).data
    given = decoding(True, data)
    assert given["hw_decoder_load"] == 0.8
    assert (given["preallocate_height_hint"], given["preallocate_width_hint"]) == (3000, 4000)
    assert given["device"] == "mixed"
    known = GetSchema(operator)
    assert [name for name in given if name != "device" and not known.HasArgument(name)] == []
    assert "hw_decoder_load" not in decoding(True, load_config(None, []).data)  # then DALI's own default is taken


def test_evaluating_again_and_again_leaves_no_threads_behind(photos: Path) -> None:
    source = open_photos(photos)

    def num_threads() -> int:
        for _ in source.evaluate("test", Shard(), 5):
            pass
        next(source.train(0, Shard(), 2, 0))
        return len(list(Path("/proc/self/task").iterdir()))

    first = num_threads()
    assert max(num_threads() for _ in range(4)) <= first


def test_importing_the_package_does_not_import_dali() -> None:
    code = "import sys, wash_hpc.data; sys.exit(any(name.startswith('nvidia.dali') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_a_missing_dali_names_the_command_that_installs_it(photos: Path) -> None:
    code = f"""
import sys, torch
sys.modules["nvidia.dali"] = None
from wash_hpc.config import load_config
from wash_hpc.data import open_source
from wash_hpc.errors import MissingDependencyError
try:
    open_source(load_config(None, [r"data.path={photos}"]), torch.device("cpu"))
except MissingDependencyError as error:
    sys.exit(str(error))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert result.stderr.strip() == "NVIDIA DALI is not installed; install it with: pip install 'wash_hpc[dali]'"
