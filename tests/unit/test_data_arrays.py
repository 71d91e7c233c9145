"""Sets in memory: the loaders on real files and on files of the same form, and what they refuse."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from wash_hpc.config import load_config
from wash_hpc.data import open_source
from wash_hpc.data.cifar import load_cifar10, load_cifar100
from wash_hpc.data.digits import load_digits, read_digits, split_digits
from wash_hpc.data.fashion_mnist import DEBIAN_FOLDER, load_fashion_mnist
from wash_hpc.data.source import Shard
from wash_hpc.data.synthetic import make_synthetic
from wash_hpc.errors import ConfigError, DataError

CPU = torch.device("cpu")


@pytest.fixture
def fashion_mnist_folder() -> str:
    if not Path(DEBIAN_FOLDER).is_dir():
        pytest.skip(f"{DEBIAN_FOLDER} is absent: apt install dataset-fashion-mnist")
    return DEBIAN_FOLDER


def statistics(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = pixels / 255
    return scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))


def test_digits_are_split_by_class_in_the_same_way_each_time() -> None:
    _, labels = read_digits()
    splits = split_digits(labels)
    assert sorted(np.concatenate(splits)) == list(range(1797))
    assert [len(split) for split in splits] == [1259, 179, 359]
    shares = [np.bincount(labels[split], minlength=10) / np.bincount(labels) for split in splits]
    for share, expected in zip(shares, (0.7, 0.1, 0.2), strict=True):
        assert np.abs(share - expected).max() < 0.01
    assert all(np.array_equal(*pair) for pair in zip(splits, split_digits(labels), strict=True))


def test_digits_are_normalised_by_their_own_mean_and_deviation() -> None:
    digits = load_digits()
    mean, std = statistics(digits.train.pixels)
    assert digits.mean == pytest.approx(mean, abs=1e-4)
    assert digits.std == pytest.approx(std, abs=1e-4)
    source = open_source(load_config(None, ["data.name=digits"]), CPU)
    assert source.image_shape == (1, 8, 8)
    assert [source.num_train, source.num_images("held_out"), source.num_images("test")] == [1259, 179, 359]


def test_synthetic_images_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    keys = ["data.name=synthetic", "data.image_size=16", "data.num_images=100", "data.num_classes=5"]
    one, same, other = (make_synthetic(load_config(None, [*keys, f"run.seed={seed}"])) for seed in (1, 1, 2))
    assert np.array_equal(one.train.pixels, same.train.pixels)
    assert np.array_equal(one.test.pixels, same.test.pixels)
    assert not np.array_equal(one.train.pixels, other.train.pixels)
    assert one.train.pixels.shape == (100, 3, 16, 16)
    assert np.bincount(one.train.labels).tolist() == [20] * 5


def test_synthetic_images_can_be_learned_from_train_to_test() -> None:
    images = make_synthetic(load_config(None, ["data.image_size=16", "data.num_images=200"]))
    centres = np.stack([images.train.pixels[images.train.labels == label].mean(0) for label in range(10)])
    distance = ((images.test.pixels[:, None] - centres[None]) ** 2).sum((2, 3, 4))
    assert (distance.argmin(1) == images.test.labels).mean() > 0.95


def test_synthetic_images_have_about_the_stated_mean_and_deviation() -> None:
    images = make_synthetic(load_config(None, ["data.image_size=8", "data.num_images=500", "data.num_classes=300"]))
    mean, std = statistics(images.train.pixels)
    assert images.mean == pytest.approx(mean, abs=0.01)
    assert images.std == pytest.approx(std, abs=0.01)


@pytest.mark.fashion_mnist
def test_fashion_mnist_as_debian_installs_it(fashion_mnist_folder: str) -> None:
    images = load_fashion_mnist(None)
    assert (images.train.pixels.shape, images.test.pixels.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert np.bincount(images.train.labels).tolist() == [6000] * 10
    mean, std = statistics(images.train.pixels)
    assert images.mean == pytest.approx(mean, abs=1e-4)
    assert images.std == pytest.approx(std, abs=1e-4)
    source = open_source(load_config(None, ["data.name=fashion_mnist", "data.held_out=0.02"]), CPU)
    assert [source.num_train, source.num_images("held_out"), source.num_images("test")] == [58_800, 1200, 10_000]
    assert next(source.train(0, Shard(), 64, 0)).images.shape == (64, 1, 28, 28)


def write_idx(file: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def write_fashion_mnist(folder: Path, ending: str) -> None:
    random = np.random.default_rng(0)
    for prefix, num_images in (("train", 12), ("t10k", 5)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{ending}", random.integers(0, 256, (num_images, 28, 28)))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{ending}", np.arange(num_images) % 10)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_read_plain_and_gzipped(tmp_path: Path, ending: str) -> None:
    write_fashion_mnist(tmp_path, ending)
    images = load_fashion_mnist(str(tmp_path))
    assert images.train.pixels.shape == (12, 1, 28, 28)
    assert images.test.labels.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(images.train.pixels[:, 0], np.random.default_rng(0).integers(0, 256, (12, 28, 28)))


def test_absent_idx_files_name_the_package_that_brings_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.*apt install dataset-fashion-mnist"):
        load_fashion_mnist(str(tmp_path))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_truncated_idx_file_is_named(tmp_path: Path, ending: str) -> None:
    write_fashion_mnist(tmp_path, ending)
    file = tmp_path / f"t10k-images-idx3-ubyte{ending}"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.*(truncated|cannot be read)"):
        load_fashion_mnist(str(tmp_path))


def test_idx_files_of_another_form_are_named(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, "")
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    write_idx(labels, np.full(12, 77))
    with pytest.raises(DataError, match=r"train labels: expected .* from 0 to 9"):
        load_fashion_mnist(str(tmp_path))
    write_idx(labels, np.zeros(11))
    with pytest.raises(DataError, match="train has 12 images and 11 labels"):
        load_fashion_mnist(str(tmp_path))
    images.write_bytes(b"no idx file at all")
    with pytest.raises(DataError, match="train-images-idx3-ubyte: this is no idx file"):
        load_fashion_mnist(str(tmp_path))


class Python2Pickler(pickle._Pickler):
    """Writes strings and bytes with the opcodes of Python 2's `str`, as CIFAR's authors did."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_as_python2_str(self, value: str | bytes) -> None:
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_as_python2_str


def write_pickle(file: Path, content: Any, python2: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        Python2Pickler(stream, 2).dump(content) if python2 else pickle.dump(content, stream, 2)


def write_cifar(root: Path, python2: bool = True) -> np.ndarray:
    """CIFAR-10 and CIFAR-100 of a few images each, in the form of the real ones; returns all pixels written."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 4, 3072), dtype=np.uint8)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for name, data in zip(names, pixels, strict=True):
        content = {"batch_label": name, "labels": [0, 3, 9, 1], "data": data, "filenames": ["a.png"] * 4}
        write_pickle(root / "cifar-10-batches-py" / name, content, python2)
    for name, data in zip(("train", "test"), pixels, strict=False):
        content = {"fine_labels": [99, 0, 50, 7], "coarse_labels": [1, 2, 3, 4], "data": data, "filenames": []}
        write_pickle(root / "cifar-100-python" / name, content, python2)
    return pixels


@pytest.mark.parametrize("python2", [True, False])
def test_cifar_files_are_read_as_python_2_and_as_python_3_wrote_them(tmp_path: Path, python2: bool) -> None:
    pixels = write_cifar(tmp_path, python2)
    ten, hundred = load_cifar10(str(tmp_path)), load_cifar100(str(tmp_path))
    assert np.array_equal(ten.train.pixels, pixels[:5].reshape(20, 3, 32, 32))
    assert np.array_equal(ten.test.pixels, pixels[5].reshape(4, 3, 32, 32))
    assert ten.train.labels.tolist() == [0, 3, 9, 1] * 5
    assert hundred.train.labels.tolist() == [99, 0, 50, 7]
    assert (ten.num_classes, hundred.num_classes) == (10, 100)


def test_cifar_trains_and_holds_out_a_share(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    keys = ["data.name=cifar10", f"data.path={tmp_path}", "data.held_out=0.2"]
    source = open_source(load_config(None, keys), CPU)
    assert [source.num_train, source.num_images("held_out"), source.num_images("test")] == [16, 4, 4]
    assert next(source.train(0, Shard(), 8, 0)).images.shape == (8, 3, 32, 32)


class Evil:
    """A pickle that runs a command when it is read."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.victim,)


def test_a_malicious_pickle_is_refused_without_being_run(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    file, victim = tmp_path / "cifar-10-batches-py" / "data_batch_2", tmp_path / "victim"
    file.write_bytes(pickle.dumps({"data": Evil(victim), "labels": []}))
    with pytest.raises(DataError, match=r"data_batch_2: this is no CIFAR file.*which no CIFAR file needs"):
        load_cifar10(str(tmp_path))
    assert not victim.exists()
    pickle.loads(file.read_bytes())  # the plain reader would have run it
    assert victim.exists()


@pytest.mark.parametrize("dangerous", ["os.system", "builtins.eval", "numpy.load", "numpy.f2py.compile"])
def test_no_other_name_can_be_reached_from_a_pickle(tmp_path: Path, dangerous: str) -> None:
    write_cifar(tmp_path)
    module, _, name = dangerous.rpartition(".")
    (tmp_path / "cifar-100-python" / "test").write_bytes(f"c{module}\n{name}\n.".encode())
    with pytest.raises(DataError, match=rf"cifar-100-python/test: .*{dangerous}"):
        load_cifar100(str(tmp_path))


def test_an_absent_cifar_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.path=.*there is no folder cifar-10-batches-py"):
        load_cifar10(str(tmp_path))
    with pytest.raises(ConfigError, match=r"data.path is not set: expected the folder that holds cifar-100-python"):
        load_cifar100(None)
    write_cifar(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match=r"data_batch_4: cannot be read: No such file"):
        load_cifar10(str(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_cifar_file_is_named(tmp_path: Path, share: float) -> None:
    write_cifar(tmp_path)
    file = tmp_path / "cifar-100-python" / "train"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(DataError, match=r"cifar-100-python/train: this is no CIFAR file, or it is truncated"):
        load_cifar100(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "expected 'data'"),
        ({"data": np.zeros((4, 3072), dtype=np.float32), "fine_labels": [0] * 4}, "expected 'data'"),
        ({"data": np.zeros((4, 100), dtype=np.uint8), "fine_labels": [0] * 4}, "expected 'data'"),
        ({"data": np.zeros((4, 3072), dtype=np.uint8)}, "expected 'fine_labels'"),
        ({"data": np.zeros((4, 3072), dtype=np.uint8), "fine_labels": [0] * 3}, "expected 'fine_labels'"),
        ({"data": np.zeros((1, 3072), dtype=np.uint8), "fine_labels": [100]}, "not a number from 0 to 99"),
    ],
)
def test_a_cifar_file_with_other_content_is_named(tmp_path: Path, content: Any, sentence: str) -> None:
    write_cifar(tmp_path)
    write_pickle(tmp_path / "cifar-100-python" / "test", content, python2=False)
    with pytest.raises(DataError, match=rf"cifar-100-python/test: .*{sentence}"):
        load_cifar100(str(tmp_path))
