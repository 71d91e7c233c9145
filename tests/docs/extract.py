"""What a page of the documentation asks its reader to type, and what it points at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = re.compile(
    r"wash-hpc|mpirun|srun|sbatch|scancel|scontrol|sinfo|sacctmgr|python|pip|make|tools/run_tests\.sh|source|git|nice|"
    r"apptainer|enroot|mksquashfs|nvidia-smi|strace|tensorboard|wandb|jupyter|export|eval|touch|ls|cat|tail"
)
"""First words by which an inline span of code is known as a command."""


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        page: the file.
        line: where it begins, from 1.
        text: on one line, without its comment.
    """

    page: str
    line: int
    text: str


@dataclass(frozen=True)
class Block:
    """A block of code: fenced, with its language, or indented by four spaces, with none but Python's."""

    line: int
    language: str
    lines: tuple[str, ...]


def pages() -> list[Path]:
    """All pages a user reads."""
    return [Path("README.md"), Path("CONTRIBUTING.md"), *sorted(Path("docs").glob("*.md"))]


def split_page(text: str) -> tuple[list[Block], str]:
    """The blocks of code of a page, and its text with empty lines in their place."""
    blocks: list[Block] = []
    prose: list[str] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        end = at
        if fence := re.match(r"```(\w*)$", lines[at]):
            end = lines.index("```", at + 1)
            blocks.append(Block(at + 2, fence[1] or "text", tuple(lines[at + 1 : end])))
            end += 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            language = "python" if re.match(r"    (import|from) \w", lines[at]) else ""
            blocks.append(Block(at + 1, language, tuple(line[4:] for line in lines[at:end])))
        else:
            end += 1
            prose.append(lines[at])
            at = end
            continue
        prose += [""] * (end - at)
        at = end
    return blocks, "\n".join(prose)


def commands_of(page: Path) -> list[Command]:
    """All commands of a page, from the top down."""
    blocks, prose = split_page(page.read_text(encoding="utf-8"))
    found = []
    for block in blocks:
        if block.language in {"", "bash", "sh", "shell", "console"}:
            found += _commands_of_block(page, block)
    for paragraph in re.finditer(r"(?:[^\n]+\n?)+", prose):
        for span in re.finditer(r"`([^`]+)`", paragraph[0]):
            text = " ".join(span[1].split())
            program = re.sub(r"^(\w+=(\".*?\"|\S+) )+", "", text).split(" ")[0]  # behind what is set for it
            is_loop = text.startswith("for ") and text.endswith("done")
            if is_loop or (PROGRAMS.fullmatch(program) and " " in text):
                line = prose.count("\n", 0, paragraph.start() + span.start()) + 1
                found.append(Command(str(page), line, text))
    return sorted(found, key=lambda command: command.line)


def _commands_of_block(page: Path, block: Block) -> list[Command]:
    found = []
    whole, first = "", 0
    for number, line in enumerate(block.lines):
        first = first if whole else block.line + number
        whole += line.strip() if not whole else f" {line.strip()}"
        if whole.endswith("\\"):
            whole = whole[:-1].rstrip()
            continue
        text = re.sub(r"\s+#.*$|^#.*$", "", whole).strip()
        if text:
            found.append(Command(str(page), first, text))
        whole = ""
    return found


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    _, prose = split_page(text)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
