"""All commands and blocks of Python in the documentation work, each as tests/docs/classified.py says."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.docs.classified import ELSEWHERE, IMPORTS_ONLY, NOT_COMMANDS, NOT_HERE, REPLACED, RUN_AS, SMALL
from tests.docs.extract import Command, commands_of, pages, split_page
from tests.support import WARM_PYTHON

PAGES = [str(page) for page in pages()]
RUN_HERE = re.compile(r"(mpirun -n \d+ (--[a-z -]+ )?)?(wash-hpc|python|tools/\w+\.py)( |$)|source |ls |eval ")
ARGUMENT = r"( (\[?[A-Z]+(\.\.\.)?\]?|\.\.\.|key=value|[\w.]+=\.\.\.|\[?--[\w-]+( [a-z]+)?\]?))"
MENTION = re.compile(
    rf"((mpirun )?wash-hpc|python \w+\.py)( [a-z]+)?{ARGUMENT}*|python tools/\w+\.py( [a-z]+)?{ARGUMENT}+"
)
TABLES = {
    command: where for table in (ELSEWHERE, NOT_HERE) for where, commands in table.items() for command in commands
}


def is_mention(command: Command) -> bool:
    """Whether it names a command with placeholders for what it is given, as in `wash-hpc soup RUN --kind repair`."""
    known = command.text in TABLES or command.text in RUN_AS
    return not known and MENTION.fullmatch(command.text) is not None


def is_printed(command: Command) -> bool:
    return re.fullmatch(NOT_COMMANDS.get(command.page, "$"), command.text) is not None


def is_plain(command: Command) -> bool:
    """Whether no table has it."""
    known = command.text in TABLES or command.text in RUN_AS
    return not (known or is_printed(command) or is_mention(command))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_or_said_why_not(page):
    unknown = [command for command in commands_of(Path(page)) if is_plain(command) and not RUN_HERE.match(command.text)]
    assert not unknown, "\n".join(
        f"{command.page}:{command.line}: {command.text}: nobody knows whether this works; put it into a table of "
        "tests/docs/classified.py: the test that runs it, or why none can"
        for command in unknown
    )


def test_the_tables_hold_no_command_that_no_page_has():
    known = {command.text for page in PAGES for command in commands_of(Path(page))}
    assert not (set(TABLES) | set(RUN_AS)) - known


@pytest.mark.parametrize("test", ELSEWHERE)
def test_a_test_that_is_said_to_run_commands_is_there(test):
    file, _, name = test.partition("::")
    functions = [node.name for node in ast.parse(Path(file).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert len([function for function in functions if function.startswith(name)]) == 1


def test_what_is_mentioned_of_a_command_is_there():
    commands, package = (
        re.compile(r'add_parser\(\s*"(\w+)"'),
        "".join(map(Path.read_text, Path("wash_hpc").rglob("*.py"))),
    )
    for page in PAGES:
        for command in filter(is_mention, commands_of(Path(page))):
            words = re.sub(r"[\[\]]|^mpirun ", "", command.text).split()
            source = Path(words[1]).read_text() if words[1].startswith("tools/") else package
            if words[0] == "wash-hpc" and words[1] != "COMMAND":
                assert words[1] in commands.findall(source), command
            for option in (word for word in words if word.startswith("--") and word != "--help"):
                assert f'"{option}"' in source, command


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone after `make demo`, with small data, and a python whose imports are done."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "docs", "Makefile", "slurm", "tests", "tools", "wash_hpc"):
        (folder / name).symlink_to(Path(name).absolute())
    make_programs(folder / ".venv" / "bin")
    digits = [sys.executable, "tools/make_dataset.py", "digits", str(folder / "all" / "digits")]
    subprocess.run(digits, check=True)
    shutil.copytree(folder / "all", folder / "data", ignore=all_but_some)
    images = ["imagenet-like", str(folder / "data" / "images"), "--classes", "2", "--images-per-class", "20"]
    subprocess.run([sys.executable, "tools/make_dataset.py", *images], check=True)
    for name in ("a.pt", "b.pt"):
        torch.save({"weight": torch.ones(2, 2)}, folder / name)
    save_file({"weight": torch.zeros(2, 2)}, folder / "c.safetensors")
    return folder


def make_programs(folder: Path) -> None:
    """The environment's programs; python and wash-hpc are forks, see CONTRIBUTING.md."""
    real = Path(os.environ["VIRTUAL_ENV"])
    folder.mkdir(parents=True)
    for program in (real / "bin").iterdir():
        if not program.name.startswith(("python", "wash-hpc")):
            (folder / program.name).symlink_to(program)
    commands = {
        "python": WARM_PYTHON,
        "python3": real / "bin" / "python3",  # in which warm-python itself is run
        "wash-hpc": f"{WARM_PYTHON} -m wash_hpc",
    }
    for name, command in commands.items():
        (folder / name).write_text(f'#!/bin/sh\nVIRTUAL_ENV={real} exec {command} "$@"\n')
        (folder / name).chmod(0o755)


def all_but_some(folder: str, names: list[str]) -> list[str]:
    """Of a folder of many images all but a dozen."""
    files = sorted(name for name in names if name.endswith(".jpg"))
    return files[12:]


_done: set[str] = set()


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work_one_after_the_other(page, clone):
    for earlier in dict.fromkeys(("README.md", "docs/first_run.md", page)):  # what others go on from
        work_through(Path(earlier), clone)


def work_through(page: Path, clone: Path) -> None:
    write_programs(page, clone)
    for command in commands_of(page):
        text = as_run(command)
        if text and text not in _done:
            _done.add(text)
            done = run(text, clone)
            assert done.returncode == 0, (
                f"{command.page}:{command.line}: {command.text}\nwas run as: {text}\n{done.stdout[-2000:]}\n"
                f"{done.stderr[-3000:]}\nmend the page, or say in tests/docs/classified.py how it is to be run"
            )


def as_run(command: Command) -> str:
    """What is run for a command of a page; nothing where nothing is."""
    if command.text in RUN_AS:
        return RUN_AS[command.text]
    if not is_plain(command):
        return ""
    text = command.text
    for there, here in REPLACED.items():
        text = text.replace(there, here)
    return f"{text} {SMALL}" if re.search(r" train (?!--)", text) else text


def run(text: str, clone: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{clone}/.venv/bin:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-ec", text], cwd=clone, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def write_programs(page: Path, clone: Path) -> None:
    """Write the programs that a page shows to the files that it names above them."""
    text = page.read_text()
    for name, code in re.findall(r"This file is `(\w+\.py)`[^`]*```python\n(.*?)```", text, re.DOTALL):
        (clone / name).write_text(code)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_python_can_be_run(page, clone):
    """After the commands of the page, whose files they may read."""
    text = Path(page).read_text()
    programs = re.findall(r"This file is `\w+\.py`[^`]*```python\n(.*?)```", text, re.DOTALL)
    for block in split_page(text)[0]:
        code = "\n".join(block.lines)
        if block.language != "python" or f"{code}\n" in programs:
            continue
        if any(words in code for words in IMPORTS_ONLY):
            imports = [node for node in ast.parse(code).body if isinstance(node, (ast.Import, ast.ImportFrom))]
            code = "\n".join(map(ast.unparse, imports))
        done = subprocess.run(
            [WARM_PYTHON, "-c", code], cwd=clone, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{page}:{block.line}: {done.stderr}"
