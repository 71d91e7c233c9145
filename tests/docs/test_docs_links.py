"""What the documentation points at is there: pages, headings, pictures, and files named in the text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.extract import anchors_of, pages, split_page

PAGES = [str(page) for page in pages()]
ROOTS = (Path(), Path("wash_hpc"), Path("tests"), Path("docs"), Path("tools"))
TESTS = sorted(Path("tests").glob("*/test_*.py"))
MADE = re.compile(
    r"(runs|build|data|landscape|checkpoints|\.venv|members)/.*|\w+_soup.*|slurm/sites/mine\.sh|50-slurm-pmi\.sh"
)
"""Paths that a run, a tool, a site or the reader makes."""


def links_of(page: str) -> list[str]:
    _, prose = split_page(Path(page).read_text())
    return re.findall(r"\]\(([^)\s]+)\)", prose)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    for link in links_of(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        file = Path(page).parent / path if path else Path(page)
        assert file.is_file(), f"{page}: {link}"
        assert not anchor or anchor in anchors_of(file.read_text()), f"{page}: {link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_is_there(page):
    own = re.findall(r"This file is `(\w+\.py)`", "".join(Path(one).read_text() for one in PAGES))
    blocks, prose = split_page(Path(page).read_text())
    text = prose + "\n".join(line for block in blocks for line in block.lines)
    for name in re.findall(r"(?<![\w./*$=<-])([\w/-]+\.(?:py|sh|def|md|png|toml))\b(?!:\d)", text):
        is_there = any((root / name).exists() for root in ROOTS) or name in {file.name for file in TESTS}
        assert is_there or name in own or MADE.fullmatch(name), f"{page}: {name}: there is no such file"
    for name in re.findall(r"\bconfigs/[\w/-]+\.yaml", text):
        assert Path(name).is_file(), f"{page}: {name}: there is no such file"


def test_every_page_can_be_reached_from_the_readme():
    seen, left = set(), ["README.md"]
    while left:
        page = left.pop()
        if page in seen or not page.endswith(".md") or not Path(page).is_file():
            continue
        seen.add(page)
        paths = (link.partition("#")[0] for link in links_of(page) if not link.startswith("http"))
        left += [str((Path(page).parent / path).resolve().relative_to(Path.cwd())) for path in paths if path]
    assert set(PAGES) <= seen


def test_anchors_are_made_as_github_makes_them():
    text = "# A first run\n\n## `make`, twice!\n\n    # no heading\n\n### p's end: at 0\n"
    assert anchors_of(text) == {"a-first-run", "make-twice", "ps-end-at-0"}
