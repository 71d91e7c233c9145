"""A key and its value as one word of a command line, which reads back as that value."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import OmegaConf


def as_override(key: str, value: Any) -> str:
    """`key=value`, of one line, that reads back as this value."""
    return f"{key}={_plain(value) if isinstance(value, str) else _flow(value)}"


def _plain(text: str) -> str:
    """A text as YAML reads it back; in quotation marks where it must be."""
    try:
        is_plain = OmegaConf.from_dotlist([f"x={text}"]).x == text
    except Exception:  # noqa: BLE001  PyYAML's many errors: what it cannot read needs the marks
        is_plain = False
    return text if is_plain and text else _flow(text)


def _flow(value: Any) -> str:
    """A value as YAML on one line; texts in quotation marks, in ASCII, as no other form is safe in all of them."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    return '"' + "".join(one if " " <= one <= "~" and one not in '"\\' else f"\\U{ord(one):08X}" for one in value) + '"'
