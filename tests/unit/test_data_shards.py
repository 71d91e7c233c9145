"""WebDataset shards: the same batches as from class folders, an index that fits, and a sentence for every fault."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from wash_hpc.config import load_config
from wash_hpc.data import decode, image_source, open_source, shard_images
from wash_hpc.data.encoded import Splits
from wash_hpc.data.folder import scan_splits
from wash_hpc.data.image_source import ImageSource
from wash_hpc.data.shards import find_index, write_index
from wash_hpc.data.source import Batch, Shard
from wash_hpc.errors import ConfigError, DataError

CPU = torch.device("cpu")
NUM_TRAIN, NUM_VAL = 21, 6
SHAPE = ["data.image_size=16", "data.resize=20", "data.held_out=0"]
Files = list[tuple[str, bytes]]


def load_tool() -> ModuleType:
    place = Path(__file__).parents[2] / "tools" / "make_dataset.py"
    spec = importlib.util.spec_from_file_location("make_dataset_for_shards", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def noise(seed: int, kind: str = "JPEG") -> bytes:
    """An image that is like no other."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40 + seed % 5, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, JPEG and PNG files, names with dots and letters of any language, some very long."""
    root = tmp_path_factory.mktemp("classes")
    for split, num_images in (("train", NUM_TRAIN), ("val", NUM_VAL), ("test", NUM_VAL)):
        for number in range(num_images):
            place = root / split / "abc"[number % 3]
            place.mkdir(parents=True, exist_ok=True)
            name = ["a.b", "großer Hund", "x" * 150][number % 3 if number < 6 else 0]
            kind = "PNG" if number % 4 == 1 else "JPEG"
            seed = number + 100 * ("train", "val", "test").index(split)
            (place / f"{name}.{number}.{'png' if kind == 'PNG' else 'JPEG'}").write_bytes(noise(seed, kind))
    return root


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "shards"
    assert load_tool().pack_shards(folder, out, images_per_shard=8, seed=0) == NUM_TRAIN + 2 * NUM_VAL
    return out


@pytest.fixture
def shards(packed: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(packed, tmp_path / "shards"))


def open_images(root: Path, *overrides: str) -> ImageSource:
    source = open_source(load_config(None, ["data.name=shards", f"data.path={root}", *SHAPE, *overrides]), CPU)
    assert isinstance(source, ImageSource)
    return source


def in_the_order_of(shards: Path, folder: Path, *overrides: str) -> ImageSource:
    """A source over the class folder whose images are in the order in which the shards have them."""
    ours, theirs = shard_images.open_shards(str(shards)), scan_splits(str(folder))
    found = []
    for packed, files in ((ours.train, theirs.train), (ours.held_out, theirs.held_out), (ours.test, theirs.test)):
        assert packed is not None
        assert files is not None
        place = {Path(files.name(position)).read_bytes(): position for position in range(len(files))}
        assert len(place) == len(packed)
        contents = packed.inputs(np.arange(len(packed)))
        found.append(files.at(np.array([place[content.tobytes()] for content in contents])))
    config = load_config(None, ["data.name=image_folder", *SHAPE, *overrides])
    return ImageSource(Splits(found[0], found[1], found[2], ours.num_classes), config, CPU)


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def write_shard(file: Path, files: Files) -> None:
    with tarfile.open(file, "w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("replica", [Shard(), Shard(0, 2), Shard(1, 2)])
def test_training_batches_are_bit_for_bit_those_of_the_same_files_in_folders(
    packed: Path, folder: Path, replica: Shard
) -> None:
    batches = islice(open_images(packed).train(1, replica, 6, 0), 9)  # over the end of two epochs
    expected = in_the_order_of(packed, folder).train(1, replica, 6, 0)
    assert all(same(*pair) for pair in zip(batches, expected, strict=False))


def test_evaluation_and_statistics_are_bit_for_bit_those_of_the_same_files_in_folders(
    packed: Path, folder: Path
) -> None:
    ours, theirs = open_images(packed), in_the_order_of(packed, folder)
    assert [ours.num_train, ours.num_images("held_out"), ours.num_images("test")] == [NUM_TRAIN, NUM_VAL, NUM_VAL]
    for part in (Shard(), Shard(1, 3)):
        for batches in (
            lambda source, part=part: source.evaluate("test", part, 4),
            lambda source, part=part: source.evaluate("held_out", part, 4),
            lambda source, part=part: source.statistics(17, part, 4),
        ):
            assert all(same(*pair) for pair in zip(batches(ours), batches(theirs), strict=True))


def test_a_stream_that_starts_at_a_step_goes_on_as_one_that_never_stopped(packed: Path) -> None:
    whole = list(islice(open_images(packed).train(0, Shard(1, 2), 6, 0), 8))
    rest = open_images(packed).train(0, Shard(1, 2), 6, 3)
    assert all(same(*pair) for pair in zip(whole[3:], rest, strict=False))


def test_a_share_of_train_is_held_out_where_val_is_the_test_set(shards: Path) -> None:
    for file in shards.glob("test-*"):
        file.unlink()
    write_index(shards)
    source = open_images(shards, "data.held_out=0.2")
    assert [source.num_train, source.num_images("held_out"), source.num_images("test")] == [17, 4, NUM_VAL]


def test_labels_are_those_of_the_classes_and_shards_are_not_sorted_by_them(packed: Path) -> None:
    train = shard_images.open_shards(str(packed)).train
    for position in range(NUM_TRAIN):
        assert re.search(r": \d{8}_([abc])_", train.name(position))[1] == "abc"[train.labels[position]]
    assert (np.diff(train.labels) < 0).any()
    assert sorted(file.name for file in packed.iterdir() if file.name.startswith("train")) == [
        f"train-{number:06d}.tar" for number in range(3)
    ]


def test_the_index_in_the_folder_is_what_the_headers_say(shards: Path) -> None:
    read = find_index(str(shards))
    (shards / "index.npz").unlink()
    scanned = find_index(str(shards))
    for name in ("names", "sizes", "shard", "offset", "size", "label"):
        assert np.array_equal(getattr(read, name), getattr(scanned, name))
        assert getattr(read, name).dtype == getattr(scanned, name).dtype


def test_a_million_samples_are_a_few_arrays(tmp_path: Path, packed: Path) -> None:
    """No Python object is kept for a sample."""
    index = find_index(str(packed))
    per_sample = sum(getattr(index, name).dtype.itemsize for name in ("shard", "offset", "size", "label"))
    assert per_sample == 28
    assert all(getattr(index, name).dtype != object for name in vars(index))


def test_shards_that_others_made_are_read(tmp_path: Path) -> None:
    """Label before image, other files of a sample, folders, upper case, a dot and slash in front."""
    image = noise(3)
    files = [("./a/x.cls", b"1\n"), ("./a/x.json", b"{}"), ("./a/x.JPG", image), ("y.seg.png", b"no"), ("y.cls", b"0")]
    write_shard(tmp_path / "train-0.tar", [*files, ("y.png", noise(4, "PNG")), ("._z.jpg", b"a Mac's")])
    write_shard(tmp_path / "val-0.tar", [("a.jpg", image), ("a.cls", b"1")])
    splits = shard_images.open_shards(str(tmp_path))
    assert splits.train.labels.tolist() == [1, 0]
    assert splits.train.inputs(np.array([0]))[0].tobytes() == image
    assert splits.train.name(1) == f"{tmp_path}/train-0.tar: y.png"
    assert splits.num_classes == 2
    batch = next(open_images(tmp_path).train(0, Shard(), 2, 0))
    assert sorted(batch.labels.tolist()) == [0, 1]


def test_more_shards_than_may_stay_open_are_read(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(open_images(packed).evaluate("test", Shard(), 4))
    monkeypatch.setattr(shard_images, "MOST_OPEN", 0)
    assert all(same(*pair) for pair in zip(whole, open_images(packed).evaluate("test", Shard(), 4), strict=True))


def test_files_are_read_ahead_and_by_other_threads(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    seen: list[tuple[str, int]] = []
    real = shard_images.ShardImages.inputs

    def inputs(images: shard_images.ShardImages, positions: np.ndarray) -> list[np.ndarray]:
        seen.append((threading.current_thread().name, len(positions)))
        return real(images, positions)

    monkeypatch.setattr(shard_images.ShardImages, "inputs", inputs)
    batches = open_images(packed).train(0, Shard(), 3, 0)
    next(batches)
    assert all(name.startswith("read") for name, _ in seen)
    assert sum(count for _, count in seen) >= 3 * (1 + decode.NUM_READ_AHEAD)
    batches.close()


def test_reading_leaves_no_threads_and_no_open_files_behind(packed: Path) -> None:
    def count() -> tuple[int, int]:
        source = open_images(packed)
        list(source.evaluate("test", Shard(), 4))
        next(source.train(0, Shard(), 2, 0))
        del source
        return len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir()))

    first = count()
    assert max(count() for _ in range(3)) <= first


# What may be wrong


def sample(key: str, label: bytes = b"0", image: bytes = noise(1)) -> Files:
    return [(f"{key}.jpg", image), (f"{key}.cls", label)]


GOOD = [*sample("a", b"0"), *sample("b", b"1")]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"val-0.tar": GOOD},
            r"data.path=.*: there is no shard train-\*.tar in it; expected a folder that holds train",
        ),
        ({"train-0.tar": GOOD}, r"data.path=.*: there is no shard val-\*.tar or test-\*.tar in it"),
        ({"train-0.tar": GOOD, "val-0.tar": []}, r"there is no sample in its shards val-\*.tar"),
        ({"train-0.tar": [*GOOD, ("c.jpg", noise(2))]}, r"train-0.tar: c has no label; expected KEY.cls beside c.jpg"),
        ({"train-0.tar": [("c.jpg", noise(2)), *GOOD]}, r"train-0.tar: c has no label"),
        ({"train-0.tar": [*GOOD, ("k/c.cls", b"0")]}, r"train-0.tar: k/c has no image; expected KEY.jpg"),
        ({"train-0.tar": [*GOOD, ("b.png", b"x")]}, r"train-0.tar: b has two images"),
        (
            {"train-0.tar": [*GOOD, *sample("c", b"cat")]},
            r"train-0.tar: c.cls holds b'cat'; expected a class as a whole",
        ),
        ({"train-0.tar": [*GOOD, *sample("c", b"-1")]}, r"train-0.tar: c.cls holds b'-1'; expected a class"),
        ({"train-0.tar": [*GOOD, *sample("c", b"1.5")]}, r"train-0.tar: c.cls holds b'1.5'"),
        ({"train-0.tar": [*GOOD, *sample("c", b"")]}, r"train-0.tar: c.cls holds b''"),
        ({"train-0.tar": [*GOOD, *sample("c", b"1" * 99)]}, r"train-0.tar: c.cls holds b'1111"),
        (
            {"train-0.tar": [*GOOD, *sample("c", b"3")]},
            r"no image of train has the label 2, but some have 3; .*label, 3",
        ),
        ({"train-0.tar": sample("c", b"1")}, r"no image of train has the label 0, but some have 1"),
        ({"val-0.tar": [*GOOD, *sample("c", b"2")]}, r"val-0.tar: c.jpg: its label is 2; train has the labels 0 to 1"),
    ],
)
def test_shards_that_are_not_as_expected_are_named_in_one_sentence(
    tmp_path: Path, files: dict[str, Files], says: str
) -> None:
    alone = "there is no shard" in says
    for name, content in {**({} if alone else {"train-0.tar": GOOD, "val-0.tar": GOOD}), **files}.items():
        write_shard(tmp_path / name, content)
    with pytest.raises(DataError, match=says) as caught:
        open_images(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_path_is_needed_and_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.path is not set: expected a folder that holds train-\*.tar"):
        open_source(load_config(None, ["data.name=shards"]), CPU)
    with pytest.raises(DataError, match=r"data.path=.*nowhere: there is no such folder; expected"):
        open_images(tmp_path / "nowhere")


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def drop_the_end(file: Path) -> None:
    """Cut right behind the last sample: only the blocks of zeros that end a tar file are missing."""
    content = file.read_bytes()
    file.write_bytes(content[: -(-len(content.rstrip(b"\0")) // 512) * 512])


@pytest.mark.parametrize(
    "spoil",
    [
        halve,
        drop_the_end,
        lambda file: file.write_bytes(file.read_bytes()[: 512 * 3 + 100]),
        lambda file: file.write_bytes(file.read_bytes()[:300]),
        lambda file: file.write_bytes(b""),
    ],
)
def test_a_shard_that_ends_early_is_found_with_and_without_an_index(
    shards: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(shards / "train-000001.tar")
    with pytest.raises(DataError, match=r"index.npz: does not fit its shards: train-000001.tar has .* bytes and had "):
        open_images(shards)
    (shards / "index.npz").unlink()
    with pytest.raises(DataError, match=r"train-000001.tar: (the shard ends early, after|this is no tar file)"):
        open_images(shards)


def test_a_file_that_is_no_tar_file_is_named(shards: Path) -> None:
    (shards / "index.npz").unlink()
    (shards / "val-000000.tar").write_bytes(b"<html>" * 1000)
    with pytest.raises(DataError, match=r"val-000000.tar: this is no tar file; expected a WebDataset shard, not compr"):
        open_images(shards)


def test_an_index_that_does_not_fit_its_shards_says_how_to_make_another(shards: Path) -> None:
    write_shard(shards / "train-000009.tar", GOOD)
    with pytest.raises(
        DataError, match=r"index.npz: does not fit .*train-000009.tar is not in it; `python .* index .*`"
    ):
        open_images(shards)
    assert load_tool().main(["index", str(shards)]) == 0
    assert open_images(shards).num_train == NUM_TRAIN + 2
    (shards / "train-000009.tar").unlink()
    with pytest.raises(DataError, match=r"train-000009.tar is not in the folder"):
        open_images(shards)


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x03\x04 and so on"])
def test_a_damaged_index_is_named(shards: Path, content: bytes) -> None:
    (shards / "index.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"index.npz: cannot be read as an index .* makes it anew"):
        open_images(shards)


@pytest.mark.parametrize("on_bad_file", ["stop", "skip"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_image_that_cannot_be_decoded_is_named_by_its_shard_and_key_or_skipped(
    shards: Path, split: str, on_bad_file: str
) -> None:
    images = getattr(shard_images.open_shards(str(shards)), split)
    position = 2
    with images.files.path(images.shard[position]).open("r+b") as file:
        file.seek(images.offset[position] + 20)
        file.write(bytes(images.size[position] - 20))
    source = open_images(shards, f"data.on_bad_file={on_bad_file}")
    source.check_files(Shard())
    batches = source.train(0, Shard(), 3, 0) if split == "train" else source.evaluate("test", Shard(), 3)
    if on_bad_file == "stop":
        with pytest.raises(DataError, match=rf"{split}-.*.tar: \d+_[abc]_.*: this image cannot be decoded"):
            list(islice(batches, 20))
        return
    num_images = sum(len(batch.labels) for batch in islice(batches, 7))
    assert num_images == (21 if split == "train" else NUM_VAL - 1)
    assert source.skipped_files == [images.name(position)]
    assert re.search(rf"{split}-\d+.tar: \d+_[abc]_", source.skipped_files[0])


def test_a_shard_that_is_cut_while_it_is_used_is_named(shards: Path) -> None:
    source = open_images(shards)
    halve(shards / "test-000000.tar")
    with pytest.raises(DataError, match=r"test-000000.tar: .*: the shard ends before this image does"):
        source.check_files(Shard())
    with pytest.raises(DataError, match=r"test-000000.tar: .*: the shard ends before this image does"):
        list(source.evaluate("test", Shard(), 2))


def test_a_shard_that_vanishes_is_named(shards: Path) -> None:
    source = open_images(shards)
    (shards / "test-000000.tar").unlink()
    with pytest.raises(DataError, match=r"test-000000.tar: the image at byte [\d,]+: cannot be read: No such file"):
        list(source.evaluate("test", Shard(), 2))


@pytest.mark.parametrize("num_parts", [1, 3])
def test_first_bytes_are_checked_as_in_folders(shards: Path, monkeypatch: pytest.MonkeyPatch, num_parts: int) -> None:
    images = shard_images.open_shards(str(shards)).train
    with images.files.path(images.shard[5]).open("r+b") as file:
        file.seek(images.offset[5])
        file.write(b"<html>")
    source = open_images(shards)
    faults = []
    for part in range(num_parts):
        try:
            source.check_files(Shard(part, num_parts))
        except DataError as error:
            faults.append(str(error))
    assert len(faults) == 1
    assert re.search(r"train-\d+.tar: \d+_[abc]_.*: this is no image: it starts with b'<html>", faults[0])
    monkeypatch.setattr(image_source, "MAX_CHECKED_FILES", 1)
    source.check_files(Shard())  # of very many files a sample is checked


# The tool


def test_packing_is_complete_or_absent_and_refuses_to_overwrite(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load_tool()
    command = ["shards", str(folder), str(tmp_path / "out"), "--images-per-shard", "10"]
    assert tool.main(command) == 0
    assert f"{NUM_TRAIN + 2 * NUM_VAL} samples" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "index.npz",
        "test-000000.tar",
        "train-000000.tar",
        "train-000001.tar",
        "train-000002.tar",
        "val-000000.tar",
    ]
    assert tool.main(command) == 2
    assert "out: this exists already" in capsys.readouterr().err
    assert tool.main(["shards", str(tmp_path / "nowhere"), str(tmp_path / "other")]) == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "val" / "a" / "gone.jpg").symlink_to("nowhere")
    assert tool.main(["shards", str(broken), str(tmp_path / "other")]) == 2
    assert "gone.jpg: cannot be read" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken", "out"]


def test_files_go_into_shards_as_they_are_in_an_order_of_the_seed(folder: Path, tmp_path: Path) -> None:
    tool = load_tool()
    contents = []
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        tool.pack_shards(folder, tmp_path / name, 100, seed)
        contents.append((tmp_path / name / "train-000000.tar").read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    train = shard_images.open_shards(str(tmp_path / "one")).train
    packed = sorted(content.tobytes() for content in train.inputs(np.arange(NUM_TRAIN)))
    assert packed == sorted(file.read_bytes() for file in (folder / "train").rglob("*.*"))


def test_an_index_of_no_shards_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_tool().main(["index", str(tmp_path)]) == 2
    assert "there is no shard in it" in capsys.readouterr().err
