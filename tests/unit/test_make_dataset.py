"""tools/make_dataset.py: what it writes, and that it writes all or nothing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from wash_hpc.config import load_config
from wash_hpc.data import open_source
from wash_hpc.data.digits import read_digits, split_digits
from wash_hpc.data.source import Shard
from wash_hpc.errors import DataError

TOOL = Path(__file__).parents[2] / "tools" / "make_dataset.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dataset", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_dataset"] = module
    spec.loader.exec_module(module)
    return module


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], check=False, capture_output=True, text=True)


def test_digits_become_the_jpeg_folder_of_the_fixed_split(tool: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "data" / "digits"
    assert tool.main(["digits", str(out)]) == 0
    pixels, labels = read_digits()
    for split, positions in zip(("train", "val", "test"), split_digits(labels), strict=True):
        files = sorted((out / split).rglob("*.jpg"))
        assert [(file.parent.name, int(file.stem)) for file in files] == sorted(
            (str(labels[position]), position) for position in positions
        )
        image = Image.open(files[0])
        assert image.size == (32, 32)
        original = Image.fromarray(pixels[int(files[0].stem), 0]).resize((32, 32), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(image, dtype=float) - np.asarray(original)).mean() < 3
    assert list(tmp_path.joinpath("data").iterdir()) == [out]


def test_the_digits_folder_is_a_source(tool: ModuleType, tmp_path: Path) -> None:
    tool.main(["digits", str(tmp_path / "digits")])
    source = open_source(
        load_config(None, [f"data.path={tmp_path / 'digits'}", "data.image_size=32", "data.resize=32"]),
        torch.device("cpu"),
    )
    source.check_files(Shard())
    assert source.num_classes == 10
    assert [source.num_train, source.num_images("held_out"), source.num_images("test")] == [1259, 179, 359]


def test_the_command_prints_what_it_made_and_refuses_to_overwrite_it(tmp_path: Path) -> None:
    arguments = ("imagenet-like", tmp_path / "photos", "--classes", 3, "--images-per-class", 4)
    made = run(*arguments)
    assert (made.returncode, made.stderr) == (0, "")
    assert "15 images" in made.stdout
    assert len(list((tmp_path / "photos").rglob("*.jpg"))) == 15
    again = run(*arguments)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert "Traceback" not in again.stderr


def test_photos_have_imagenets_layout_sizes_and_bytes(tool: ModuleType, tmp_path: Path) -> None:
    """ImageNet: 108 kB a file, half of them some 500x375, all from 75 to thousands of pixels; 469x387 on average."""
    tool.main(["imagenet-like", str(tmp_path / "photos"), "--classes", "10", "--images-per-class", "30"])
    assert {file.name for file in (tmp_path / "photos").iterdir()} == {"train", "val"}
    for split, images_per_class in (("train", 30), ("val", 3)):
        classes = sorted((tmp_path / "photos" / split).iterdir())
        assert [len(list(folder.glob("*.jpg"))) for folder in classes] == [images_per_class] * 10
    files = list((tmp_path / "photos").rglob("*.jpg"))
    num_bytes = np.array([file.stat().st_size for file in files])
    sizes = np.array([Image.open(file).size for file in files])
    long = sizes.max(axis=1)
    assert 90_000 < num_bytes.mean() < 130_000
    assert 80_000 < np.median(num_bytes) < 110_000
    assert num_bytes.min() < 15_000
    assert num_bytes.max() > 500_000
    assert 0.7 < (long == 500).mean() < 0.85
    assert 0.05 < (long < 450).mean() < 0.2
    assert 0.05 < (long > 550).mean() < 0.2
    assert long.max() > 1200
    assert long.min() < 200
    assert 0.15 < (sizes[:, 1] > sizes[:, 0]).mean() < 0.35  # upright
    assert np.abs(sizes.mean(axis=0) - [469, 387]).max() < 40


def test_fashion_mnist_becomes_a_jpeg_folder(tool: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "idx"
    source.mkdir()
    for prefix, num_images in (("train", 40), ("t10k", 20)):
        for kind, axes, values in (
            ("images-idx3", 3, np.zeros((num_images, 28, 28), dtype=np.uint8)),
            ("labels-idx1", 1, (np.arange(num_images) % 10).astype(np.uint8)),
        ):
            header = bytes([0, 0, 8, axes]) + np.array(values.shape, dtype=">u4").tobytes()
            (source / f"{prefix}-{kind}-ubyte").write_bytes(header + values.tobytes())
    assert tool.main(["fashion-mnist", str(tmp_path / "out"), "--source", str(source)]) == 0
    counts = [len(list((tmp_path / "out" / split).rglob("*.jpg"))) for split in ("train", "val", "test")]
    assert counts == [36, 4, 20]


def test_absent_fashion_mnist_is_a_sentence_and_leaves_nothing(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["fashion-mnist", str(tmp_path / "out"), "--source", str(tmp_path)]) == 2
    assert "apt install dataset-fashion-mnist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    assert tool.main(["digits", str(tmp_path / "out")]) == 2
    assert "out: cannot be written: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tool: ModuleType, tmp_path: Path) -> None:
    def pictures() -> Iterator[object]:
        yield tool.Picture("train/a", "0", np.zeros((4, 4), dtype=np.uint8))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tool.write_folder(tmp_path / "out", pictures(), 95)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_sentence(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        tool.write_folder(tmp_path / "file" / "out", iter(()), 95)


@pytest.mark.parametrize(
    "arguments",
    [("digits",), ("letters", "out"), ("imagenet-like", "out", "--classes", "0"), ("digits", "o", "--quality", "101")],
)
def test_wrong_arguments_exit_with_2(tool: ModuleType, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        tool.main(list(arguments))
    assert caught.value.code == 2


def test_help_shows_examples(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--help"])
    assert "python tools/make_dataset.py digits data/digits" in capsys.readouterr().out
