"""What a user writes, before types are checked: a YAML file, `key=value` arguments, and what to say of a wrong one.

Owns how they are merged and the short forms that are allowed. Which keys there are is `config`'s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wash_hpc.errors import ConfigError
from wash_hpc.method_kinds import DEFAULT, common_options, is_foreign

_MOST_CHARACTERS = 2**16  # the longest in configs/ has 3000; YAML's scanner takes time by their square
_MOST_LEVELS = 20  # of sections and lists in each other
_NO_VALUE = "???"  # what OmegaConf takes for a value that is still to come
_TEXT = ("run.name", "run.dir", "data.path")  # names that users choose: on, 007 and 1e3 are such, too
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # as OmegaConf's: two parsers might read two things


def read_yaml(file: Path) -> Any:
    """The sections in a YAML file.

    Raises:
        ConfigError: absent, unreadable, more than plain values, or not sections of keys.
    """
    try:
        if not file.is_file():
            raise ConfigError(f"{file}: there is no such configuration file{_nearest(file)}")
        with file.open(encoding="utf-8") as opened:
            text = opened.read(_MOST_CHARACTERS + 1)
        _require_plain(text, str(file))
        content = OmegaConf.load(StringIO(text))
    except ConfigError:
        raise
    except Exception as error:  # PyYAML's many errors share no base with OmegaConf's
        raise ConfigError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(content):
        raise ConfigError(f"{file}: expected sections of keys (run:, data:, method: ...)")
    return content


def _nearest(file: Path) -> str:
    beside = {other.stem: other for other in sorted(file.parent.glob("*.yaml"))}
    near = get_close_matches(file.name.removesuffix(".yaml"), beside)
    return f"; did you mean {' or '.join(str(beside[name]) for name in near)}?" if near else ""


def plain_sections(text: str, where: str) -> dict[str, Any]:
    """The sections in a text that others may have written, as Python's own values; no key is checked.

    Raises:
        ConfigError: it is no YAML, more than plain values, or not sections of keys.
    """
    try:
        _require_plain(text, where)
        content = yaml.load(text, Loader=_LOADER)
    except ConfigError:
        raise
    except Exception as error:  # PyYAML's many errors, and those of values that look like dates or numbers
        raise ConfigError(f"{where}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected sections of keys (run:, data:, method: ...)")
    return content


def _require_plain(text: str, where: str) -> None:
    """Refuse what no plain value needs, before anything is built from a text that others may have written.

    A reference could bring an environment variable into files that the run writes, and the YAML library ends the
    process where sections are in each other some thousands deep.

    Args:
        text: YAML, perhaps wrong.
        where: the file, or the key.

    Raises:
        ConfigError: naming both.
        yaml.YAMLError: it is no YAML.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ConfigError(f"{where}: expected a configuration of at most {_MOST_CHARACTERS:,} characters")
    level = 0
    for event in yaml.parse(text, Loader=_LOADER):
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > _MOST_LEVELS:
            raise ConfigError(f"{where}: sections or lists in each other, more than {_MOST_LEVELS} deep")
        if isinstance(event, yaml.ScalarEvent):
            place = f"{where}: line {event.start_mark.line + 1}" if "\n" in text else where
            if "${" in event.value:
                raise ConfigError(f"{place}: refers to another value by ${{...}}; expected the value itself")
            if event.value == _NO_VALUE:
                raise ConfigError(f"{place}: {_NO_VALUE} stands for no value; expected one")


def merge_overrides(given: Any, overrides: Sequence[str]) -> Any:
    """Overrides over what a file gives, in order; each `method.name=NAME` forgets what is not meant for this method.

    What the method before it was given, in the file or behind its own name, is kept where both know it, but not when it
    acts. What stands before the first name is meant for the named method, where that knows it.

    Raises:
        ConfigError: an override that cannot be read, or a section `method` that has not the form it needs.
    """
    names = [number for number, override in enumerate(overrides) if override.startswith("method.name=")]
    begin = 0
    for number in names:
        if begin > 0:  # what stands between two names was meant for the first
            given, begin = _merge(given, overrides[begin:number]), number
        given, begin = _name_method(given, overrides[begin : number + 1]), number + 1
    given = _merge(given, overrides[begin:])
    _require_form(OmegaConf.select(given, "method"))
    return given


def _name_method(given: Any, overrides: Sequence[str]) -> Any:
    """The last override names a method; those before it that it does not know are left out."""
    named = _merge(OmegaConf.create({}), overrides[-1:])
    name, section = named.method.name, OmegaConf.select(given, "method")
    if not isinstance(name, str):
        return _merge(given, overrides)
    if OmegaConf.is_dict(section) and section.get("name", DEFAULT) != name:
        kept = common_options(dict(section), name)
        given = OmegaConf.merge({key: given[key] for key in given if key != "method"}, {"method": kept})
    keys = [override.partition("=")[0] for override in overrides]
    known = [
        override
        for key, override in zip(keys, overrides, strict=True)
        if not key.startswith("method.") or not is_foreign(key.split(".")[1], name)
    ]
    return _merge(given, known)


def _merge(given: Any, overrides: Sequence[str]) -> Any:
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{override}' is not of the form key=value, as in method.p=0.01")
        try:
            _require_plain(value, key)
            given.merge_with_dotlist([override])
            if key in _TEXT and isinstance(OmegaConf.select(given, key), bool | int | float):
                OmegaConf.update(given, key, value)  # as it was written
        except ConfigError:
            raise
        except OmegaConfBaseException as error:
            raise ConfigError(f"{override}: {explain(error)}") from error
        except Exception as error:  # PyYAML's, as in read_yaml, and of a key that is none of a list
            raise ConfigError(f"{override}: cannot be read: {' '.join(str(error).split())}") from error
    return given


def _require_form(section: Any) -> None:
    """Refuse a name that is no text, and further methods that are no list of sections."""
    if not OmegaConf.is_dict(section):
        return
    name, then = section.get("name", DEFAULT), section.get("then", OmegaConf.create([]))
    if not isinstance(name, str):
        raise ConfigError(f"method.name={name}: expected one name")
    if not (OmegaConf.is_list(then) and all(OmegaConf.is_dict(one) for one in then)):
        raise ConfigError(
            f"method.then={then}: expected a list of methods, as in 'method.then=[{{name: papa, start: 300}}]'"
        )


def with_short_forms(given: Any) -> Any:
    """The same with every short form written out."""
    _require_text(given)
    return _with_lists(_with_words_on_and_off(_with_auto(given)))


def _require_text(given: Any) -> None:
    """Refuse a name that YAML has read as true or false: which word it was, nobody knows any more."""
    for key in _TEXT:
        value = OmegaConf.select(given, key)
        if isinstance(value, bool):
            words = "on, yes or true" if value else "off, no or false"
            raise ConfigError(f"{key}: YAML reads {words} as a truth value; put quotes around a name")


def _with_auto(given: Any) -> Any:
    """The same with null in place of `auto` for a method's p."""
    others = OmegaConf.select(given, "method.then")
    for section in [OmegaConf.select(given, "method"), *(others if OmegaConf.is_list(others) else [])]:
        if OmegaConf.is_dict(section) and section.get("p") == "auto":
            section["p"] = None
    return given


def _with_words_on_and_off(given: Any) -> Any:
    """The same with `on` and `off` where YAML has read them as true and false."""
    for key in ("parallel.device_buffers", "log.progress"):
        value = OmegaConf.select(given, key)
        if isinstance(value, bool):
            OmegaConf.update(given, key, "on" if value else "off")
    return given


def _with_lists(given: Any) -> Any:
    """The same with lists of one where a regularisation is given as a number for all, or a sink as one name."""
    for key in ("train.mixup", "train.cutmix", "train.label_smoothing", "train.random_erasing", "log.sinks"):
        value = OmegaConf.select(given, key)
        if value is not None and not OmegaConf.is_list(value):
            OmegaConf.update(given, key, [value])
    for key in ("data.crop_scale", "data.mean", "data.std", "data.decoder_size_hint"):
        value = OmegaConf.select(given, key)
        if value is not None and not OmegaConf.is_list(value):  # OmegaConf says of a section nothing, of others little
            raise ConfigError(f"{key}={value}: expected a list of numbers")
    return given


def explain(error: OmegaConfBaseException) -> str:
    """The first sentence of an OmegaConf error, with the full key in front of it."""
    first = str(error).splitlines()[0]
    if error.full_key is None and "is not a subclass of" in first:  # as in method=wash, meant for method.name=wash
        section = first.split("subclass of ")[1].split("Config")[0].lower()
        return f"{section}: expected a key of this section, as in {section}.KEY=VALUE"
    if found := re.match(r"Key '.*' not in '\w+'(?:\. Did you mean: '(\w+)')?", first):  # names a class of ours
        instead = f"did you mean {found[1]}?" if found[1] else "docs/configuration.md has them all"
        return f"{error.full_key}: there is no such key; {instead}"
    return f"{error.full_key}: {first}" if error.full_key else first
