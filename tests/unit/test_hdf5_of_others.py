"""HDF5 files of others cannot lead us to other files, load filters, or claim more memory than they are large."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.unit.test_metrics import LAYERS, write
from wash_hpc.storage.metrics import MetricsError, read_attributes, read_metrics


def again(file: Any, path: str, **how: Any) -> None:
    """Make a dataset anew in another way."""
    shape = file[path].shape
    del file[path]
    file.create_dataset(path, shape, np.float64, **how)


def external_link(file: Any, other: Path) -> None:
    del file["train/loss"]
    file["train/loss"] = h5py.ExternalLink(str(other), "/train/loss")


def external_group(file: Any, other: Path) -> None:
    del file["train"]
    file["train"] = h5py.ExternalLink(str(other), "/train")


def soft_link(file: Any, other: Path) -> None:
    del file["train/loss"]
    file["train/loss"] = h5py.SoftLink("/train/accuracy")


def soft_link_to_itself(file: Any, other: Path) -> None:
    del file["train"]
    file["train"] = h5py.SoftLink("/train")


def external_storage(file: Any, other: Path) -> None:
    again(file, "train/loss", external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def virtual(file: Any, other: Path) -> None:
    layout = h5py.VirtualLayout((3, 3), np.float64)
    layout[:] = h5py.VirtualSource(str(other), "train/loss", (3, 3))
    del file["train/loss"]
    file.create_virtual_dataset("train/loss", layout)


def huge(file: Any, other: Path) -> None:
    file["train/loss"].resize(2**40, axis=0)


def packed(file: Any, other: Path) -> None:
    again(file, "train/loss", chunks=(1, 3), compression="gzip")


def references(file: Any, other: Path) -> None:
    del file["train/loss"]
    file.create_dataset("train/loss", (3, 3), h5py.ref_dtype)


def text_of_any_length(file: Any, other: Path) -> None:
    del file["train/loss"]
    file.create_dataset("train/loss", (3, 3), h5py.string_dtype())


def reference_attribute(file: Any, other: Path) -> None:
    file["about"].attrs["config"] = file["train"].ref


def empty_attribute(file: Any, other: Path) -> None:
    file["about"].attrs["config"] = h5py.Empty("f8")


def numbers_for_names(file: Any, other: Path) -> None:
    file["about"].attrs["layer_names"] = [1, 2, 3]


def a_member_less(file: Any, other: Path) -> None:
    del file["train/accuracy"]
    file.create_dataset("train/accuracy", (3, 2), np.float64)


CRAFTED = [
    external_link,
    external_group,
    soft_link,
    soft_link_to_itself,
    external_storage,
    virtual,
    huge,
    packed,
    references,
    text_of_any_length,
    reference_attribute,
    empty_attribute,
    numbers_for_names,
    a_member_less,
]


@pytest.mark.parametrize("craft", CRAFTED, ids=lambda craft: craft.__name__)
def test_what_no_run_writes_is_refused_with_the_name_of_the_file(
    tmp_path: Path, craft: Callable[[Any, Path], None]
) -> None:
    for name in ("run", "secret"):
        write(tmp_path / name, range(1, 4))
    path = tmp_path / "run/metrics/0000.h5"
    with h5py.File(path, "r+", libver="latest") as file:
        craft(file, tmp_path / "secret/metrics/0000.h5")
    with pytest.raises(MetricsError, match=str(path)) as refused:
        read_metrics(tmp_path / "run")
    assert "\n" not in str(refused.value)


def test_a_damaged_block_is_an_error_at_once(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    path = tmp_path / "metrics/0000.h5"
    content = bytearray(path.read_bytes())
    content[content.index(b"OHDR") + 20] ^= 1  # HDF5's own reader of a file that is being written tries for ever
    path.write_bytes(content)
    with pytest.raises(MetricsError, match="checksum"):
        read_metrics(tmp_path)


def test_text_is_read_from_where_it_has_a_checksum_and_others_find_it_as_they_expect_it(tmp_path: Path) -> None:
    write(tmp_path, range(1, 2))
    with h5py.File(tmp_path / "metrics/0000.h5", "r+", libver="latest") as file:
        assert h5py.check_string_dtype(file["about"].attrs.get_id("layer_names").dtype).length is not None
        assert file.attrs["layer_names"].tolist() == LAYERS
        file.attrs["layer_names"] = file["train"].ref
    assert read_metrics(tmp_path).layer_names == tuple(LAYERS)


def test_attributes_of_early_files_are_read(tmp_path: Path) -> None:
    write(tmp_path, range(1, 2))
    with h5py.File(tmp_path / "metrics/0000.h5", "r+", libver="latest") as file:
        del file["about"]
        file.attrs["hosts"] = "é"
        file.attrs["none"] = ""
    assert read_metrics(tmp_path).layer_names == tuple(LAYERS)
    assert read_attributes(tmp_path)["hosts"] == "é"
    assert read_attributes(tmp_path)["none"] == ""
