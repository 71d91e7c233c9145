"""What one rank has read, sent to another: it opens there as if it had been read there, without looking at files."""

from __future__ import annotations

import io
import pickle
import re
import shutil
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wash_hpc.config import Config, load_config
from wash_hpc.data import open_source, read_content, require_content, source_names
from wash_hpc.data.encoded import Splits
from wash_hpc.data.source import Batch, Shard
from wash_hpc.errors import DataError

CPU = torch.device("cpu")
FILES_OF = {"image_folder": "classes", "shards": "packed", "text": "text"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A class folder, the same images in shards, and a text."""
    for split, num_images in (("train", 12), ("val", 4)):
        shard = tmp_path / "packed" / f"{split}-0.tar"
        shard.parent.mkdir(exist_ok=True)
        with tarfile.open(shard, "w") as tar:
            for number in range(num_images):
                pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(image := io.BytesIO(), "JPEG")
                place = tmp_path / "classes" / split / "ab"[number % 2]
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{number:02d}.jpg").write_bytes(image.getvalue())
                for ending, content in (("jpg", image.getvalue()), ("cls", b"%d" % (number % 2))):
                    header = tarfile.TarInfo(f"{number}.{ending}")
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))
    (tmp_path / "text").write_bytes(bytes(range(250)) * 8)
    return tmp_path


def config_of(data: Path, name: str) -> Config:
    shape = ["data.image_size=16", "data.resize=18", "data.batch_size=4", "data.num_images=16", "data.context=8"]
    path = [f"data.path={data / FILES_OF[name]}"] if name in FILES_OF else []
    return load_config(None, [f"data.name={name}", *shape, *path])


def first_batches(config: Config, *content: Any) -> list[Batch]:
    source = open_source(config, CPU, *content)
    return [*islice(source.train(1, Shard(), 4, 0), 3), *source.evaluate("test", Shard(), 4)]


@pytest.mark.parametrize("name", ["image_folder", "shards", "digits", "synthetic", "text"])
def test_a_set_that_another_rank_has_read_gives_the_same_batches(data: Path, name: str) -> None:
    assert name in source_names()
    config = config_of(data, name)
    sent = pickle.loads(pickle.dumps(read_content(config)))
    assert (sent is None) == (name == "synthetic")  # it is of no files, so each rank makes it
    require_content(config, sent)
    for here, there in zip(first_batches(config), first_batches(config, sent), strict=True):
        assert torch.equal(here.images, there.images)
        assert torch.equal(here.labels, there.labels)


@pytest.mark.parametrize("name", ["digits", "text"])
def test_what_was_read_whole_need_not_be_on_the_other_host(data: Path, name: str) -> None:
    config = config_of(data, name)
    content = read_content(config)
    shutil.rmtree(data)
    require_content(config, content)
    assert first_batches(config, content)


@pytest.mark.parametrize("name", ["image_folder", "shards"])
def test_a_listing_knows_files_of_each_split_by_their_sizes(data: Path, name: str) -> None:
    content = read_content(config_of(data, name))
    assert isinstance(content, Splits)
    found = {str(Path(mark.path).relative_to(data)): mark.num_bytes for mark in content.landmarks}
    expected = {
        "image_folder": [
            "classes/train/a/00.jpg",
            "classes/train/b/11.jpg",
            "classes/val/a/00.jpg",
            "classes/val/b/03.jpg",
        ],
        "shards": ["packed/train-0.tar", "packed/val-0.tar"],
    }[name]
    assert found == {file: (data / file).stat().st_size for file in expected}


@pytest.mark.parametrize("name", ["image_folder", "shards"])
@pytest.mark.parametrize("fault", ["absent folder", "absent file", "other size"])
def test_files_that_this_host_lacks_or_has_otherwise_are_named(data: Path, name: str, fault: str) -> None:
    config = config_of(data, name)
    content = read_content(config)
    assert isinstance(content, Splits)
    require_content(config, content)
    last = Path(content.landmarks[-1].path)
    if fault == "absent folder":
        says = f"data.path={data / FILES_OF[name]}: there is no such folder; every host must have"
        shutil.rmtree(data / FILES_OF[name])
    elif fault == "absent file":
        says = f"{last}: cannot be read: No such file or directory; every host must have the files that rank 0 has"
        last.unlink()
    else:
        num_bytes = last.stat().st_size
        says = f"{last}: has 10 bytes here and {num_bytes:,} for rank 0; every host must have"
        last.write_bytes(last.read_bytes()[:10])
    with pytest.raises(DataError, match=f"^{re.escape(says)}"):
        require_content(config, content)


def test_a_file_that_cannot_be_looked_at_is_no_landmark(data: Path) -> None:
    """Whether it stops a run is decided by data.on_bad_file."""
    file = data / "classes" / "train" / "a" / "00.jpg"
    file.unlink()
    file.symlink_to("nowhere")
    content = read_content(config_of(data, "image_folder"))
    assert isinstance(content, Splits)
    assert len(content.landmarks) == 3
