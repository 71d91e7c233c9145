"""The pages that are made out of the code say what it says."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import pytest

from wash_hpc.config import Config, load_config
from wash_hpc.errors import ConfigError
from wash_hpc.ranges import rules_of

sys.path.insert(0, str(Path("tools").resolve()))

import make_reference


@pytest.mark.parametrize("name", ["configuration.md", "metrics.md"])
def test_a_page_that_is_made_out_of_the_code_is_not_stale(name):
    assert Path("docs", name).read_text() == make_reference.pages()[name], "run: python tools/make_reference.py"


def test_the_check_fails_where_a_page_is_stale_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_reference, "DOCS", tmp_path)
    (tmp_path / "configuration.md").write_text(make_reference.configuration_page())
    assert make_reference.main(["--check"]) == 1
    assert capsys.readouterr().out.startswith("docs/metrics.md: is not what the code says")
    assert not (tmp_path / "metrics.md").exists()
    assert make_reference.main([]) == 0
    assert make_reference.main(["--check"]) == 0


def test_every_key_has_a_row_with_its_default_and_a_meaning():
    rows = {row.split("`")[1]: row for row in make_reference.configuration_page().splitlines() if row.startswith("| `")}
    keys = [
        f"{section.name}.{key.name}" for section in fields(Config) for key in fields(getattr(Config(), section.name))
    ]
    assert list(rows) == keys
    for row in rows.values():
        _, default, expected, *_, meaning = row.replace("\\|", "/").strip("| ").split(" | ")
        assert default.startswith("`")
        assert expected, row
        assert meaning.strip(" |"), row


def test_ranges_are_said_without_the_values_of_one_configuration():
    """Their sentences are shown beside every key, so they may not depend on what is set."""
    given = ["optimizer.lr=3", "optimizer.name=adam", "method.topology=ring", "data.image_size=64", "data.name=digits"]
    other = {(key, expected) for key, _, _, expected in rules_of(load_config(None, given))}
    assert other == {(key, expected) for key, _, _, expected in rules_of(Config())}


def test_a_value_out_of_its_range_is_refused_with_the_sentence_of_the_page():
    page = make_reference.configuration_page()
    for wrong in ("data.held_out=1", "optimizer.min_lr=1", "method.alpha=2", "checkpoint.keep=0", "data.context=5000"):
        with pytest.raises(ConfigError) as error:
            load_config(None, [wrong, "method.name=papa"])
        key, said = wrong.partition("=")[0], str(error.value).partition("expected ")[2]
        (row,) = [row for row in page.splitlines() if row.startswith(f"| `{key}` ")]
        assert said in row


def test_a_key_without_a_comment_is_said(tmp_path, monkeypatch):
    source = tmp_path / "config.py"
    source.write_text("class RunConfig:\n    name: str = 'a'  # meaning\n    dir: str = 'b'\n")
    monkeypatch.setattr(make_reference.inspect, "getfile", lambda module: str(source))
    with pytest.raises(ValueError, match="line 3: dir has no comment"):
        make_reference.comments_of(type("RunConfig", (), {}))
