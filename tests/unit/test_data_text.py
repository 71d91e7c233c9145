"""Text as windows of bytes: what they hold, how the file is split, and files that cannot be used."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wash_hpc.config import load_config
from wash_hpc.data import open_source, text
from wash_hpc.data.source import Batch, Shard
from wash_hpc.data.text import TextSource, split_text
from wash_hpc.errors import ConfigError, DataError

CONTEXT = 8
NUM_BYTES = 250  # every byte of the file tells where it is: 203 for training, 22 held out, 25 for the test


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_bytes(bytes(range(NUM_BYTES)))
    return path


def open_text(path: Path, *overrides: str) -> TextSource:
    keys = [f"data.path={path}", f"data.context={CONTEXT}", "data.held_out=0.1", "data.batch_size=5", *overrides]
    source = open_source(load_config(None, ["data.name=text", *keys]), torch.device("cpu"))
    assert isinstance(source, TextSource)
    return source


def windows(batches: list[Batch]) -> Tensor:
    """[N, T + 1]: inputs, and the last label."""
    for batch in batches:
        assert torch.equal(batch.images[:, 1:], batch.labels[:, :-1])
    return torch.cat([torch.cat([batch.images, batch.labels[:, -1:]], dim=1) for batch in batches])


def test_a_window_is_so_many_bytes_and_its_labels_are_those_that_follow_each(file: Path) -> None:
    source = open_text(file)
    seen = windows(list(islice(source.train(0, Shard(), 5, 0), 20)))
    assert seen.shape == (100, CONTEXT + 1)
    assert torch.equal(seen, seen[:, :1] + torch.arange(CONTEXT + 1))


def test_no_window_reaches_into_another_part_of_the_file(file: Path) -> None:
    source = open_text(file)
    parts = split_text(NUM_BYTES, 0.1)
    assert [len(parts[name]) for name in ("train", "held_out", "test")] == [203, 22, 25]
    seen = {
        "train": windows(list(islice(source.train(3, Shard(), 5, 0), 200))),
        "held_out": windows(list(source.evaluate("held_out", Shard(), 3))),
        "test": windows(list(source.evaluate("test", Shard(), 3))),
    }
    for name, part in parts.items():
        assert set(seen[name].flatten().tolist()) <= set(part)
    assert set(seen["train"].flatten().tolist()) == set(parts["train"])  # and none of it is left out


@given(st.integers(0, 10_000), st.floats(0, 0.99))
def test_the_parts_are_the_whole_file_in_order_and_a_tenth_is_for_the_test(num_bytes: int, held_out: float) -> None:
    parts = split_text(num_bytes, held_out)
    assert list(parts) == ["train", "held_out", "test"]
    assert [byte for part in parts.values() for byte in part] == list(range(num_bytes))
    assert len(parts["test"]) == round(0.1 * num_bytes)
    half = split_text(num_bytes, held_out, 0.5)
    assert half == {**parts, "train": range(round(0.5 * len(parts["train"])))}


def test_every_byte_that_can_be_is_predicted_once_in_an_evaluation(file: Path) -> None:
    labels = torch.cat([batch.labels for batch in open_text(file).evaluate("test", Shard(), 2)]).flatten().tolist()
    assert labels == list(range(226, 250))  # the first of 225 ... 249 has nothing before it


def test_windows_start_at_every_eighth_byte_unless_they_are_moved(file: Path) -> None:
    plain, moved = (
        windows(list(islice(open_text(file, f"data.augment={augment}").train(0, Shard(), 5, 0), 5)))[:, 0]
        for augment in ("false", "true")
    )
    assert sorted(plain.tolist()) == list(range(0, 200, CONTEXT))
    steps = (moved - plain) % (203 - CONTEXT)  # those that would leave the training part go round to its start
    assert set(steps.tolist()) <= set(range(CONTEXT))
    assert len(set(steps.tolist())) > 1


def test_an_evaluation_is_of_no_more_predictions_than_fit_and_they_are_of_the_whole_part(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "MOST_PREDICTIONS", 2 * CONTEXT)
    source = open_text(file, "data.held_out=0.5")
    assert source.num_images("held_out") == source.num_images("test") == 2
    assert windows(list(source.evaluate("held_out", Shard(), 9)))[:, 0].tolist() == [113, 113 + 6 * CONTEXT]


def test_nothing_is_held_out_where_nothing_is_to_be(file: Path) -> None:
    source = open_text(file, "data.held_out=0")
    assert source.num_images("held_out") == 0
    assert source.num_train == (225 - 1) // CONTEXT


def test_bytes_of_any_file_are_text(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 500, dtype=np.uint8).tobytes())
    batch = next(open_text(path).train(0, Shard(), 5, 0))
    assert (batch.images.dtype, int(batch.labels.max()) > 127) == (torch.int64, True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"nothing: there is no such file; `tools/make_dataset.py text .*nothing` makes one"),
        ("folder", r"nothing: this is a folder; expected a text file"),
        (b"", r"nothing: the file is empty"),
        (bytes(40), r"40 bytes is too short: its train part, .* 3 windows of data.context=8 .* data.batch_size=5"),
        (
            bytes(70),
            r"70 bytes is too short: its held_out part, 6 bytes, has 0 windows .*expected enough for one w",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_sentence(tmp_path: Path, content: object, says: str) -> None:
    path = tmp_path / "nothing"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^data.path=.*{says}") as caught:
        open_text(path)
    assert "\n" not in str(caught.value)


def test_a_text_whose_test_part_holds_no_window_is_refused(file: Path) -> None:
    with pytest.raises(DataError, match=r"its test part, 25 bytes, has 0 windows of data.context=25 bytes"):
        open_text(file, "data.context=25", "data.held_out=0.2")


def test_a_path_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"data.path is not set: expected a text file"):
        open_source(load_config(None, ["data.name=text"]), torch.device("cpu"))


@pytest.mark.parametrize("context", [0, -1, 4097])
def test_a_context_out_of_range_is_refused(context: int) -> None:
    with pytest.raises(ConfigError, match=rf"data.context={context}: expected from 1 to 4096 bytes"):
        load_config(None, [f"data.context={context}"])


@pytest.mark.parametrize("key", ["mixup", "cutmix", "random_erasing"])
def test_what_mixes_or_erases_images_is_refused_for_text_and_label_smoothing_is_not(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"train.{key}=\[0.0, 0.5\]: expected 0 with data.name=text"):
        load_config(None, ["data.name=text", f"train.{key}=[0,0.5]"])
    assert load_config(None, ["data.name=text", "train.label_smoothing=0.1"]).train.label_smoothing == [0.1]
