"""Completion in a shell: commands, options, files, keys of the configuration and, where they are few, their values.

The shell asks at each Tab, so nothing here imports torch, and argcomplete and the configuration only when it asks.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

COMPLETION = """\
Print what a shell needs to complete the commands, options, configuration files, keys and values of wash-hpc. To have it
in every new shell:
  bash  echo 'eval "$(wash-hpc completion bash)"' >> ~/.bashrc
  zsh   echo 'eval "$(wash-hpc completion zsh)"' >> ~/.zshrc        (behind compinit)
  fish  wash-hpc completion fish > ~/.config/fish/completions/wash-hpc.fish"""

# Their registries import torch, which takes seconds; tests/unit/test_completion.py holds that these are they.
DATA_NAMES = ("image_folder", "shards", "digits", "fashion_mnist", "cifar10", "cifar100", "text", "synthetic")
MODEL_NAMES = ("resnet_small", "resnet_tiny", "vgg_small", "mlp", "resnet18", "vgg16_bn", "vit_small", "language_model")

_FILES = {"config": ("yaml", "yml"), "file": ("yaml", "yml"), "output": (), "sources": ()}
"""Arguments that take files, and how these end; no ending: any."""


def add_completion(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `completion`."""
    completion = commands.add_parser(
        "completion",
        help="print what a shell needs to complete this command",
        description=COMPLETION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
    completion.set_defaults(run=_print_script)


def complete(parser: argparse.ArgumentParser) -> None:
    """Where a shell asks for completions, answer and end the process; else do nothing."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete
    from argcomplete.completers import ChoicesCompleter

    _add_completers(parser)
    nothing = ChoicesCompleter({})  # of an argument that has no completer, whose values would be files by default
    argcomplete.autocomplete(parser, always_complete_options="long", default_completer=nothing)


def complete_override(prefix: str, **_: Any) -> list[str]:
    """The keys that begin with a prefix, or where it is `key=...` the values that the key may have."""
    given, equals, _value = prefix.partition("=")
    values = _values_by_key()
    if equals:
        return [f"{given}={value}" for value in values.get(given, ())]
    return [f"{key}=" for key in values]


def _print_script(options: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    shell = "bash" if options.shell == "zsh" else options.shell  # one script is for both
    sys.stdout.write(shellcode(["wash-hpc"], shell=shell))
    return 0


def _add_completers(parser: argparse.ArgumentParser) -> None:
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter

    for action in parser._actions:
        completer: Any = None
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _add_completers(command)
        elif action.dest == "overrides":
            completer = complete_override
        elif action.dest == "folder":
            completer = DirectoriesCompleter()
        elif action.dest in _FILES:
            completer = FilesCompleter(_FILES[action.dest])
        if completer is not None:
            action.completer = completer  # type: ignore[attr-defined]  # where argcomplete looks for it


def _values_by_key() -> dict[str, tuple[str, ...]]:
    """All keys of the configuration, and the values they may have where these are names."""
    from wash_hpc.config import Config
    from wash_hpc.method_kinds import KINDS
    from wash_hpc.ranges import SINKS

    values = {
        f"{section}.{key}": tuple(_names_of(kind))
        for section, of_section in get_type_hints(Config).items()
        if is_dataclass(of_section)
        for key, kind in get_type_hints(of_section).items()
    }
    return values | {
        "data.name": DATA_NAMES,
        "model.name": MODEL_NAMES,
        "method.name": tuple(KINDS),
        "log.sinks": SINKS,
    }


def _names_of(kind: Any) -> Iterator[str]:
    """What a value of a type may be called; nothing where that is a number, a text or a list."""
    if kind is bool:
        yield from ("true", "false")
    elif get_origin(kind) is Literal:
        yield from get_args(kind)
    elif NoneType in get_args(kind):
        yield "null"
