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
        if "=" not in override:
            raise ConfigError(f"'{override}' is not of the form key=value, as in method.p=0.01")
        try:
            given.merge_with_dotlist([override])
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
