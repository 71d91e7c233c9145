"""Any configuration at all, as a file or as arguments, loads or is refused with a sentence that names what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.inputs import damaged, damages, examples
from wash_hpc.config import Config, dump_config, load_config
from wash_hpc.errors import ConfigError, printable

DEFAULTS = {
    section.name: {
        key.name: getattr(getattr(Config(), section.name), key.name) for key in fields(section.default_factory)
    }
    for section in fields(Config)
}
KEYS = [(section, key) for section, keys in DEFAULTS.items() for key in keys]

SAID = """
wash papa papa_all sparta diloco local_sgd independent data_parallel synthetic digits text mlp resnet_small vit_small
language_model lr cosine linear ring node cyclic partitioned adam adamw sgd bf16 fp16 skip must auto never block module
increasing on off yes no null ~ 1e3 1_0 0x10 1:30 nan .nan .inf -.inf << *a &a !!x !!python/name:os !!binary {a: [ { ] }
: ? - % @ ` # | > ${a} ${oc.env:HOME} ??? ../x /etc -x . .. 2020-01-01
"""
WORDS = st.sampled_from(SAID.split())
TEXT = WORDS | st.text(max_size=8) | st.sampled_from(["", " ", "a\nb", "\x1b[31m", "\0", "\u202e", "\ud800", "a" * 300])
NUMBERS = (
    st.integers(-2, 20)
    | st.integers()
    | st.sampled_from([2**31, 2**53, 2**63, 2**64, -(2**63), 10**400])
    | st.floats()
    | st.floats(0, 1)
    | st.sampled_from([1e-320, 1e308, -0.0])
)
PLAIN = NUMBERS | TEXT | st.booleans() | st.none()
NAMES = st.sampled_from([key for _, key in KEYS]) | st.sampled_from(["", "a", "name", "then"])
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.integers(0, 3), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def sections(draw: st.DrawFn) -> dict[str, Any]:
    """Some keys of the configuration with values of any kind, among them the right ones."""
    chosen = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=5))
    config: dict[str, Any] = {}
    for section, key in chosen:
        config.setdefault(section, {})[key] = draw(VALUES | st.just(DEFAULTS[section][key]))
    if draw(st.integers(0, 9)) == 0:
        config[draw(st.sampled_from([*DEFAULTS, "", "runs"]))] = draw(VALUES)
    return config


def keys_in(value: Any) -> Iterator[Any]:
    """The keys of all sections, however deep."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from keys_in(item)


def loads_or_names(folder: Path, file: Path | None, overrides: list[str], names: set[Any]) -> None:
    """Load it; what is refused is a ConfigError with one of these names in one line, what is not reads back alike."""
    refused = ""
    try:
        config = load_config(file, overrides)
    except ConfigError as error:
        refused = str(error)
    if refused:
        is_unknown_key = ": there is no such key; " in refused  # and stands in front
        named = is_unknown_key or any(printable(str(name)) in refused for name in names)
        assert named, f"{refused} names none of {names}"
        assert refused == printable(refused)
        return
    written = folder / "written.yaml"
    written.write_text(dump_config(config))
    assert load_config(written) == config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


@examples(350)
@given(config=sections())
def test_values_of_any_kind_load_or_are_refused_naming_a_key(folder: Path, config: dict[str, Any]) -> None:
    file = folder / "values.yaml"
    with suppress(UnicodeEncodeError):
        file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        loads_or_names(folder, file, [], {str(file), *keys_in(config)})


@examples(700)
@given(
    overrides=st.lists(
        st.tuples(
            st.sampled_from(KEYS).map(".".join)
            | st.sampled_from(["method.then", "method.then.0.p", "", ".", "run", "[", "a]"])
            | st.text(max_size=5),
            VALUES.map(str) | TEXT,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_arguments_of_any_kind_are_taken_or_refused_naming_a_key(
    folder: Path, overrides: list[tuple[str, str]]
) -> None:
    keys = [f"{key}=".partition("=")[0] for key, _ in overrides]  # a key of any text may have one in it
    names = {key.split(".")[-1].split("[")[0] for key in keys} | {repr(key) for key in keys}
    loads_or_names(folder, None, [f"{key}={value}" for key, value in overrides], names)


WHOLE = [file.read_bytes() for file in sorted(Path("configs").glob("*.yaml"))]
TOKENS = [
    b"\xef\xbb\xbf",
    b"\xff",
    b"\0",
    b"*a ",
    b"&a ",
    b"<<: ",
    b"!!python/object/apply:os.system ",
    b"[" * 50,
    b"{a: " * 50,
    b"---\n",
    b"\t",
    b"? ",
    b"%YAML 9\n",
    b"\xe2\x80\xae",
    b"${run.name}",
    b"???",
]


@examples(700)
@given(whole=st.sampled_from(WHOLE), how=damages(), token=st.sampled_from([b"", *TOKENS]), place=st.floats(0, 1))
def test_a_damaged_file_loads_or_is_refused_with_its_name_or_a_key(
    folder: Path, whole: bytes, how: Any, token: bytes, place: float
) -> None:
    content = damaged(whole, how)
    at = int(place * len(content))
    file = folder / "damaged.yaml"
    file.write_bytes(content[:at] + token + content[at:])
    loads_or_names(folder, file, [], {str(file), "Key '", *DEFAULTS, *(key for _, key in KEYS)})
