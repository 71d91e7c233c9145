"""What a user writes, before types are checked: a YAML file, `key=value` arguments, and what to say of a wrong one.

Owns how they are merged and the short forms that are allowed. Which keys there are is `config`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wash_hpc.errors import ConfigError
from wash_hpc.method_kinds import DEFAULT, common_options, is_foreign


def read_yaml(file: Path) -> Any:
    """The sections in a YAML file.

    Raises:
        ConfigError: absent, unreadable, or not sections of keys.
    """
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such configuration file")
    try:
        content = OmegaConf.load(file)
    except Exception as error:  # PyYAML's many errors share no base with OmegaConf's
        raise ConfigError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(content):
        raise ConfigError(f"{file}: expected sections of keys (run:, data:, method: ...)")
    return content


def merge_overrides(given: Any, overrides: Sequence[str]) -> Any:
    """Overrides over what a file gives, and, where they name another method, without what only the other knows.

    Of the file's method that is also when it acts. Overrides before the name keep what the named method knows.

    Raises:
        ConfigError: an override that cannot be read, or a section `method` that has not the form it needs.
    """
    for override in overrides:
        _require_readable(override)
    name = OmegaConf.select(OmegaConf.from_dotlist(list(overrides)), "method.name")
    section = OmegaConf.select(given, "method")
    if isinstance(name, str) and OmegaConf.is_dict(section) and section.get("name", DEFAULT) != name:
        kept = common_options(dict(section), name)
        given = OmegaConf.merge({key: given[key] for key in given if key != "method"}, {"method": kept})
    given.merge_with_dotlist(_without_options_of_another_method(overrides, name))
    _require_form(OmegaConf.select(given, "method"))
    return given


def _require_readable(override: str) -> None:
    if "=" not in override:
        raise ConfigError(f"'{override}' is not of the form key=value, as in method.p=0.01")
    try:
        OmegaConf.from_dotlist([override])
    except Exception as error:  # as in read_yaml
        raise ConfigError(f"{override}: the value is not readable as YAML: {' '.join(str(error).split())}") from error


def _without_options_of_another_method(overrides: Sequence[str], name: object) -> list[str]:
    """Overrides without options, given before the last `method.name=NAME`, that this method does not know."""
    keys = [override.partition("=")[0] for override in overrides]
    last = max((number for number, key in enumerate(keys) if key == "method.name"), default=0)
    return [
        override
        for number, (override, key) in enumerate(zip(overrides, keys, strict=True))
        if number > last or not key.startswith("method.") or not is_foreign(key.split(".")[1], str(name))
    ]


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
    return _with_lists(_with_words_on_and_off(given))


def _with_words_on_and_off(given: Any) -> Any:
    """The same with `on` and `off` where YAML has read them as true and false."""
    for key in ("parallel.device_buffers", "log.progress"):
        value = OmegaConf.select(given, key)
        if isinstance(value, bool):
            OmegaConf.update(given, key, "on" if value else "off")
    return given


def _with_lists(given: Any) -> Any:
    """The same with lists of one where a regularisation is given as a number for all members."""
    for key in ("train.mixup", "train.cutmix", "train.label_smoothing", "train.random_erasing"):
        value = OmegaConf.select(given, key)
        if value is not None and not OmegaConf.is_list(value):
            OmegaConf.update(given, key, [value])
    for key in ("data.crop_scale", "data.mean", "data.std"):
        value = OmegaConf.select(given, key)
        if OmegaConf.is_dict(value):  # as by data.mean.0=0.5, to which OmegaConf says nothing of the key
            raise ConfigError(f"{key}={value}: expected a list of numbers")
    return given


def explain(error: OmegaConfBaseException) -> str:
    """The first sentence of an OmegaConf error, with the full key in front of it."""
    first = str(error).splitlines()[0]
    if "is not a subclass of" in first:  # as in method=wash, meant for method.name=wash
        section = first.split("subclass of ")[1].split("Config")[0].lower()
        return f"{section}: expected a key of this section, as in {section}.KEY=VALUE"
    return f"{error.full_key}: {first}" if error.full_key else first
