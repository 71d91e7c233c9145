"""A key and its value as one word of a command line, which reads back as that value."""

from __future__ import annotations

import json
import re
from typing import Any

from omegaconf import OmegaConf

_WORD = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*")


def as_override(key: str, value: Any) -> str:
    """`key=value`, of one line, that reads back as this value."""
    return f"{key}={_plain(value) if isinstance(value, str) else _flow(value)}"


def _plain(text: str) -> str:
    """A text as YAML reads it back: a word as it is, where YAML has no other use for it; else in quotation marks."""
    is_plain = _WORD.fullmatch(text) is not None and OmegaConf.from_dotlist([f"x={text}"]).x == text
    return text if is_plain else _flow(text)


def _flow(value: Any) -> str:
    """A value as YAML on one line; texts in quotation marks, in ASCII, as no other form is safe in all of them."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    return '"' + "".join(one if " " <= one <= "~" and one not in '"\\' else f"\\U{ord(one):08X}" for one in value) + '"'
