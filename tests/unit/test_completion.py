"""Tab in a real bash: commands, options, files, keys and the values of keys; quickly, and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wash_hpc import completion
from wash_hpc.__main__ import main
from wash_hpc.config import load_config
from wash_hpc.data import source_names
from wash_hpc.errors import ConfigError
from wash_hpc.models import _OWN

ASK = """
eval "$(wash-hpc completion bash)"
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMPREPLY=()
    _python_argcomplete wash-hpc < /dev/null
    printf '%s|' "${COMPREPLY[@]}"
    echo
done
"""


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the command, for a PATH: what is installed is perhaps not this source tree."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "wash-hpc"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m wash_hpc "$@"\n')
    command.chmod(0o755)
    return folder


def completions(bin_folder: Path, *lines: str) -> list[list[str]]:
    """What a bash offers at the end of each line."""
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        env={"PATH": f"{bin_folder}:/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())},
        check=False,
    )
    assert not done.stderr
    return [line.split("|")[:-1] for line in done.stdout.splitlines()]


def test_bash_completes_commands_options_files_keys_and_values(bin_folder):
    train = "wash-hpc train configs/digits_wash.yaml"
    commands, plan, files, sweeps, keys, names, one, truth, literal, options, split = completions(
        bin_folder,
        "wash-hpc ",
        "wash-hpc pl",
        "wash-hpc train configs/digits_w",
        "wash-hpc sweep configs/sweeps/digits_p",
        f"{train} method.p",
        f"{train} method.name=",
        f"{train} method.p=0.1 method.name=wa",
        f"{train} train.channels_last=",
        f"{train} optimizer.name=",
        "wash-hpc evaluate runs/x --sp",
        "wash-hpc evaluate runs/x --split ",
    )
    assert {"train", "evaluate", "soup", "plan", "tune", "requeue", "doctor", "completion"} <= set(commands)
    assert plan == ["plan "]
    assert files == ["configs/digits_wash.yaml "]
    assert sweeps == ["configs/sweeps/digits_p.yaml "]
    assert keys == ["method.p=", "method.p_schedule=", "method.permutation="]
    assert {"wash", "papa", "diloco"} <= set(names)
    assert one == ["wash "]
    assert truth == ["true", "false"]
    assert literal == ["sgd", "adam", "adamw"]
    assert options == ["--split "]
    assert split == ["test", "held_out"]


def test_all_values_that_are_offered_are_accepted_with_some_others():
    others = [["method.name=sparta"], ["method.name=papa_all"], ["train.precision=bf16"], ["optimizer.momentum=0.9"]]
    for key in completion.complete_override(""):
        for override in completion.complete_override(key):
            assert any(is_accepted([*other, override]) for other in [[], *others]), override


def is_accepted(overrides: list[str]) -> bool:
    try:
        load_config(None, overrides)
    except ConfigError:
        return False
    return True


def test_names_that_are_offered_are_all_that_there_are():
    assert source_names() == completion.DATA_NAMES
    assert tuple(_OWN) == completion.MODEL_NAMES


def test_a_tab_imports_no_torch():
    code = "import sys, wash_hpc.__main__ as m, wash_hpc.completion as c; c.complete_override('')"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("shell", "registers"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --c")]
)
def test_each_shell_is_given_its_script(shell, registers, capsys):
    assert main(["completion", shell]) == 0
    assert registers in capsys.readouterr().out
