"""Soups of files: the mean bit for bit, one tensor at a time, and a sentence for every file that does not fit."""

from __future__ import annotations

import os
import pickle
import weakref
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wash_hpc.__main__ import main
from wash_hpc.errors import WeightsError
from wash_hpc.file_soup import average, make_file_soup
from wash_hpc.storage.state_dicts import open_state_dict

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Odd shapes, a scalar, an empty tensor and a counter, so that nothing is aligned by chance."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (3, 5, 3, 3), "conv.bias": (7,), "scale": (), "none": (0, 4), "bn.running_var": (3,)}
    tensors = {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}
    return tensors | {"bn.num_batches_tracked": torch.tensor(10 + seed)}


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def status_of(*arguments: str) -> int:
    """The exit status of a command in this process, into which another test may have loaded MPI, which then exits."""
    try:
        return main(arguments)
    except SystemExit as done:
        return int(done.code or 0)


def soup(tmp_path: Path, *paths: Path) -> dict[str, Tensor]:
    make_file_soup(paths, tmp_path / "out" / "soup.safetensors")
    return load_file(tmp_path / "out" / "soup.safetensors")


def refusal(tmp_path: Path, *paths: Path) -> str:
    """The sentence by which a soup of these files is refused; nothing is left behind."""
    with pytest.raises(WeightsError) as refused:
        make_file_soup(paths, tmp_path / "refused.safetensors")
    assert not list(tmp_path.glob("*refused*"))
    return str(refused.value)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_files", [2, 3, 5])
def test_a_soup_of_files_is_the_mean_made_in_memory_bit_for_bit(tmp_path, dtype, num_files):
    states = [state(seed, dtype) for seed in range(num_files)]
    suffixes = [".safetensors", ".pt", ".pth", ".bin", ".safetensors"]
    paths = [write(tmp_path / f"{i}{suffixes[i]}", tensors) for i, tensors in enumerate(states)]
    mean = soup(tmp_path, *paths)
    assert mean.keys() == states[0].keys()
    assert mean.pop("bn.num_batches_tracked") == 10 + num_files - 1
    for key, tensor in mean.items():
        slow = (reduce(add, [tensors[key].double() for tensors in states]) / num_files).to(dtype)
        assert tensor.dtype == dtype
        assert torch.equal(tensor, slow)


def test_a_soup_of_equal_files_is_the_file_also_where_a_zero_is_negative(tmp_path):
    tensors = {"weight": torch.tensor([-0.0, 1 / 3, 65504.0, 3e38]), "flag": torch.tensor([True, False])}
    mean = soup(tmp_path, *(write(tmp_path / f"{i}.pt", tensors) for i in range(3)))
    assert mean["weight"].view(torch.int32).tolist() == tensors["weight"].view(torch.int32).tolist()
    assert torch.equal(mean["flag"], tensors["flag"])


def test_tensors_of_many_widths_lie_in_the_file_where_a_memory_map_can_take_them(tmp_path):
    tensors = {
        "a": torch.ones(3, dtype=torch.uint8),
        "b": torch.ones(5, dtype=torch.float16),
        "c": torch.ones(3).double(),
    }
    mean = soup(tmp_path, *(write(tmp_path / f"{i}.safetensors", tensors) for i in range(2)))
    assert all(torch.equal(mean[key], tensors[key]) for key in tensors)
    assert all(tensor.data_ptr() % tensor.itemsize == 0 for tensor in mean.values())


def test_a_tensor_that_is_a_view_of_another_is_averaged_as_what_it_shows(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tied = write(tmp_path / "tied.pt", {"whole": whole, "column": whole.t()[1], "tied": whole})
    plain = write(tmp_path / "plain.pt", {"whole": whole + 2, "column": whole[:, 1] + 2, "tied": whole + 2})
    mean = soup(tmp_path, tied, plain)
    assert torch.equal(mean["column"], whole[:, 1] + 1)
    assert torch.equal(mean["tied"], whole + 1)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_state_dict_beside_an_epoch_is_found_and_said(tmp_path, wrapper):
    torch.save({"epoch": 3, wrapper: state(0)}, tmp_path / "checkpoint.pth")
    other = write(tmp_path / "other.safetensors", state(1))
    said = make_file_soup([tmp_path / "checkpoint.pth", other], tmp_path / "soup.safetensors")
    assert f"checkpoint.pth: its state dict was under '{wrapper}'" in said
    assert "mean of 2 files, 6 tensors, 147 values" in said
    assert "running statistics are averaged" in said


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_no_more_than_one_tensor_of_one_file_is_in_memory_beside_the_sum(tmp_path, suffix):
    """Of eight files with three tensors each, every tensor that is read is gone before the next but one is."""
    living: set[int] = set()
    most = 0
    files = []
    for number in range(8):
        tensors = {key: torch.full((1000,), float(number)) for key in "abc"}
        file = open_state_dict(write(tmp_path / f"{number}{suffix}", tensors))

        def read(key: str, file=file) -> Tensor:
            nonlocal most
            tensor = file.read(key).clone()  # a pickled file's are the map's own, which is no memory of the process
            living.add(id(tensor))
            weakref.finalize(tensor, living.discard, id(tensor))
            most = max(most, len(living))
            return tensor

        files.append(replace(file, read=read))
    for key in "abc":
        assert average(files, key)[0] == 3.5
    assert most <= 2
    assert not living


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_memory_of_a_soup_is_that_of_a_tensor_not_of_a_model(tmp_path, suffix):
    """Forty tensors of 4 MB in each of four files: anonymous memory never grows by half of one model."""
    tensors = {f"layer{i}": torch.zeros(1_000_000) for i in range(40)}
    files = [open_state_dict(write(tmp_path / f"{i}{suffix}", tensors)) for i in range(4)]

    def anonymous_kilobytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    average(files, "layer0")  # what torch keeps for itself from the first call on
    before = anonymous_kilobytes()
    grown = [(average(files, key), anonymous_kilobytes() - before)[1] for key in tensors]
    # The sum and a copy in float64, the mean and a tensor of each file are 36 MB, and the allocator may keep some; a
    # model is 160 MB.
    assert max(grown) < 80_000


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(tmp_path, save):
    save({"weight": torch.ones(1), "harm": Harmful(tmp_path / "harm")}, tmp_path / "harmful.pt")
    said = refusal(tmp_path, tmp_path / "harmful.pt", write(tmp_path / "good.pt", state(0)))
    assert said.startswith(f"{tmp_path}/harmful.pt: ")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_that_is_cut_short_anywhere_is_named(tmp_path, suffix):
    good = write(tmp_path / f"good{suffix}", state(0))
    content = good.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:length])
        assert str(cut) in refusal(tmp_path, good, cut)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_noise_is_named(tmp_path, suffix):
    good, noise = write(tmp_path / f"good{suffix}", state(0)), tmp_path / f"noise{suffix}"
    for seed in range(20):
        noise.write_bytes(bytes(torch.randint(256, (300,), generator=torch.Generator().manual_seed(seed)).tolist()))
        assert str(noise) in refusal(tmp_path, good, noise)


def with_change(key: str, tensor: Tensor | None) -> dict[str, Tensor]:
    tensors = state(0) | ({} if tensor is None else {key: tensor})
    if tensor is None:
        del tensors[key]
    return tensors


def test_a_constant_with_infinities_that_all_files_share_is_written_as_it_is(tmp_path):
    mask = torch.full((3, 3), float("-inf")).triu(1)
    paths = [write(tmp_path / f"{seed}.pt", state(seed) | {"mask": mask}) for seed in (1, 2, 3)]
    make_file_soup(paths, tmp_path / "soup.safetensors")
    assert torch.equal(load_file(tmp_path / "soup.safetensors")["mask"], mask)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (with_change("scale", None), "differs from {first}: it lacks scale"),
        (with_change("head.bias", torch.ones(1)), "differs from {first}: it has besides head.bias"),
        (with_change("conv.bias", torch.ones(8)), "differs from {first}: conv.bias has shape [8], expected [7]"),
        (
            with_change("conv.bias", torch.ones(7).half()),
            "differs from {first}: conv.bias has dtype torch.float16, expected torch.float32",
        ),
        (
            {f"layer{i}": torch.ones(1) for i in range(5)},
            "differs from {first}: it lacks conv.weight, conv.bias, scale and 3 more and has besides layer0, layer1, "
            "layer2 and 2 more",
        ),
        (with_change("scale", torch.tensor(float("nan"))), ": scale holds values that are not finite (inf or nan)"),
        (with_change("scale", torch.tensor(float("-inf"))), ": scale holds values that are not finite (inf or nan)"),
        ({}, ": holds no tensors"),
        (with_change("scale", torch.ones(2).cfloat()), ": scale has dtype torch.complex64; known are F64, F32"),
        (with_change("scale", torch.eye(2).to_sparse()), "scale is a tensor on cpu of layout torch.sparse_coo"),
    ],
)
def test_a_file_that_does_not_fit_the_first_is_named_with_the_key(tmp_path, changed, sentence):
    first = write(tmp_path / "first.pt", state(1))
    other = write(tmp_path / "other.pt", changed)
    said = refusal(tmp_path, first, write(tmp_path / "second.pt", state(2)), other)
    assert said.startswith(str(other))
    assert sentence.format(first=first) in said


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([torch.ones(1)], "holds a list, expected a state dict"),
        ({"epoch": 3, "network": {}}, "epoch is of type int, expected a tensor"),
        ({0: torch.ones(1)}, "0 is of type Tensor"),
    ],
)
def test_a_file_that_holds_no_state_dict_says_what_it_holds(tmp_path, content, sentence):
    torch.save(content, tmp_path / "other.pt")
    assert sentence in refusal(tmp_path, write(tmp_path / "first.pt", state(1)), tmp_path / "other.pt")


def test_integers_that_differ_are_refused_unless_they_count(tmp_path):
    first = write(tmp_path / "first.pt", {"ids": torch.arange(3), "tracked": torch.tensor(7)})
    other = write(tmp_path / "other.pt", {"ids": torch.arange(3), "tracked": torch.tensor(4)})
    assert soup(tmp_path, first, other)["tracked"] == 7
    write(other, {"ids": torch.arange(3) + 1, "tracked": torch.tensor(4)})
    assert refusal(tmp_path, first, other) == (
        f"{other}: ids differs from {first}, and integers (torch.int64) must be equal"
    )


def test_a_sum_too_large_for_float64_is_refused(tmp_path):
    paths = [
        write(tmp_path / f"{i}.pt", {"weight": torch.tensor([(1.5 + i / 10) * 1e308], dtype=torch.float64)})
        for i in range(2)
    ]
    assert "weight: the sum of all files is too large for float64" in refusal(tmp_path, *paths)


def test_an_output_that_is_there_stays_as_it_is_when_a_soup_is_refused(tmp_path):
    output = write(tmp_path / "soup.safetensors", state(5))
    before = output.read_bytes()
    bad = write(tmp_path / "bad.pt", with_change("scale", torch.tensor(float("nan"))))
    with pytest.raises(WeightsError, match="scale holds values"):
        make_file_soup([write(tmp_path / "good.pt", state(0)), bad], output)
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pt", "good.pt", "soup.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.pt", "b.pt"], "a soup of files needs --output FILE, ending with .safetensors"),
        (["a.pt", "--output", "out.safetensors"], "a.pt: a soup of files needs two or more"),
        (["a.pt", "b.pt", "--output", "out.pt"], "--output out.pt: expected a name that ends with .safetensors"),
        (["a.pt", "b.pt", "--output", "out.safetensors", "--kind", "greedy"], "--kind greedy: needs a run's model"),
        (["a.pt", "b.pt", "--output", "out.safetensors", "--kind", "repair"], "--kind repair: needs a run's model"),
        (["a.pt", "b.pt", "run.seed=1", "--output", "out.safetensors"], "run.seed=1: there is no such file, and files"),
        (["a.pt", "b.pt", "--output", "out.safetensors", "run.seed=1"], "run.seed=1: there is no such file, and files"),
        (["a.pt", ".", "--output", "out.safetensors"], ".: a folder among files"),
        (["a.pt", "c.pt", "--output", "out.safetensors"], "c.pt: there is no such file"),
        (["a.pt", "text.txt", "--output", "out.safetensors"], "text.txt: expected a file that ends with one of"),
        (
            ["c.safetensors", "a.pt", "--output", "c.safetensors"],
            "--output c.safetensors: is one of the files to average",
        ),
        (["c.safetensors", "a.pt", "--output", "link.safetensors"], "--output link.safetensors: is one of the files"),
        (["run.seed=1"], "soup needs a run's folder, or files to average"),
    ],
)
def test_what_makes_no_sense_with_files_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pt", "b.pt", "c.safetensors"):
        write(Path(name), state(0))
    Path("text.txt").write_text("")
    Path("link.safetensors").symlink_to("c.safetensors")
    before = sorted(tmp_path.iterdir())
    assert status_of("soup", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"wash_hpc: error: {sentence}")
    assert said.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_may_have_an_equals_sign_in_its_name(tmp_path, capsys):
    paths = [str(write(tmp_path / f"epoch={i}.pt", state(i))) for i in range(2)]
    assert status_of("soup", *paths, "--output", str(tmp_path / "soup.safetensors")) == 0
    assert "mean of 2 files" in capsys.readouterr().out
