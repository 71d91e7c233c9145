"""Tables, curves, the page and the live view: they say what the files say, and no run can write into the page."""

from __future__ import annotations

import csv
import io
import json
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from wash_hpc.errors import MissingDependencyError, RunFolderError
from wash_hpc.report.alarms import alarms
from wash_hpc.report.columns import COLUMNS, DERIVED, format_bytes, format_percent, gap
from wash_hpc.report.figure import Bars, Curve, Figure, HeatMap, Series, thinned
from wash_hpc.report.figure_files import write_report_figures
from wash_hpc.report.figures import figures
from wash_hpc.report.page import page_text, repeat_command, write_page
from wash_hpc.report.plotly_figures import _clipped
from wash_hpc.report.runs import Run, read_runs, with_metrics
from wash_hpc.report.table import csv_text, print_table
from wash_hpc.storage.metrics import EvaluationRecord, MetricsWriter, TrainRecord
from wash_hpc.storage.summary import Summary, write_summary

EVIL = '</script><script>alert("x")</script>'
NAN = float("nan")


def summary(name: str = "demo", **changes: Any) -> Summary:
    base = Summary(
        name, "wash", 2, 1, 0, 30, 1.5, 900, 100, 0.9712, 0.98, 0.977, 0.987, 0.986, None, 3.2, 123_456_789, 183.2, 90.0
    )
    return replace(base, **changes)


def make_run(
    folder: Path,
    run: Summary,
    num_records: int = 30,
    attributes: Mapping[str, int] = MappingProxyType({"first_step": 0}),
) -> Path:
    """A finished run of two members with metrics."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"run:\n  name: {run.name}\n")
    with MetricsWriter(folder, 2, ["conv", "fc"], attributes) as writer:
        for step in range(1, num_records + 1):
            row, sent = np.array([1.0, 2.0]) / step, np.full(2, 10 * step)
            consensus = step / 10 if step % 10 == 0 else NAN
            loss = np.full(2, NAN) if step == 5 else row
            writer.append_train(
                TrainRecord(
                    step,
                    step / 20,
                    0.1,
                    loss,
                    1 - row / 2,
                    row,
                    row,
                    row,
                    row,
                    row,
                    sent,
                    sent,
                    sent,
                    consensus,
                    np.array([step / 100, 0]),
                )
            )
            if step % 10 == 0:
                writer.append_evaluation(EvaluationRecord(step, 1 - row / 2, 0.95, 0.9 + step / 1000, row, 0.2, 0.3))
    write_summary(folder, run)
    return folder


def load(*folders: Path) -> list[Run]:
    runs, problems = with_metrics(read_runs(folders)[0])
    assert problems == []
    return runs


def printed(runs: Sequence[Summary], width: int, terminal: bool) -> str:
    text = io.StringIO()
    print_table(Console(file=text, width=width, force_terminal=terminal, color_system=None), runs)
    return text.getvalue()


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def count(self, tag: str) -> int:
        return sum(element == tag for element, _ in self.elements)

    def figures(self) -> list[dict[str, Any]]:
        content = next(text for text in self.texts["script"] if text.startswith("[{"))
        parsed: list[dict[str, Any]] = json.loads(content)
        return parsed


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_600, "1 MB"),
        (123_456_789, "123 MB"),
        (1.65e12, "1.65 TB"),
        (2e15, "2 PB"),
    ],
)
def test_bytes_are_said_in_human_units(num_bytes: float, text: str) -> None:
    assert format_bytes(num_bytes) == text


def test_an_accuracy_that_was_not_measured_is_a_dash() -> None:
    assert (format_percent(None), format_percent(0.98765)) == ("-", "98.77")


def test_outside_a_terminal_the_table_is_plain_and_whole() -> None:
    lines = printed([summary("a" * 100), summary("b", greedy_soup_accuracy=0.5)], width=40, terminal=False).splitlines()
    titles = [column.title.replace("/\n", "/").replace("\n", " ") for column in COLUMNS]
    assert [title for title in titles if title not in lines[0]] == []
    row = "wash 2 97.12 - 98.00 97.70 98.70 98.60 - +1.00 - - - - 123 MB 78.1 MB 90 - 3 min 03 s"
    assert " ".join(lines[1].split()) == f"{'a' * 100} {row}"
    assert lines[2].split()[9] == "50.00"
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_in_a_terminal_the_table_fits_and_says_what_it_left_out(width: int) -> None:
    text = printed([summary("demo-independent"), summary("n" * 90)], width, terminal=True)
    assert max(map(len, text.splitlines())) <= width
    assert "98.70" in text
    header = text.partition("demo")[0].split()
    left_out = " ".join(text.split()).rstrip(".").partition("No room for: ")[2].split(", ")
    titles = {column.title: column.title.replace("/\n", "/").replace("\n", " ") for column in COLUMNS}
    shown = [title for title, in_line in titles.items() if in_line not in left_out]
    assert sorted(header) == sorted(word for title in shown for word in title.split())


def test_a_wide_terminal_shows_every_column_and_one_of_120_those_that_matter_most() -> None:
    assert "No room for" not in printed([summary(), summary("n" * 90)], 220, terminal=True)
    assert "No room for: members, soup raw, EMA, differ, soup NLL, soup ECE." in " ".join(
        printed([summary("demo-independent")], 120, terminal=True).split()
    )


def test_spread_gap_bytes_per_point_and_shares_of_a_step_follow_from_the_summary() -> None:
    run = summary(
        mean_member_accuracy=0.5,
        soup_accuracy=0.52,
        ensemble_accuracy=0.54,
        member_accuracies=[0.48, None, 0.52],
        bytes_sent_per_member=3_000_000_000,
        seconds={"data": 1.0, "compute": 8.0, "reduce": 0.0, "exchange": 1.0, "checkpoint": 90.0},
    )
    cells = {column.title: column.cell(run) for column in COLUMNS}
    shown = [cells[title] for title in ("spread", "gap", "sent per\npoint", "data/comp/\nred/exch %")]
    assert shown == ["2.83", "-2.00", "1.5 GB", "10/80/0/10"]


def test_images_a_second_are_whole_numbers_from_100_up() -> None:
    column = next(column for column in COLUMNS if column.title == "img/s")
    rates = (2511.3, 99.97, 9.876)
    assert [column.cell(summary(images_per_second_per_member=rate)) for rate in rates] == ["2511", "100", "9.88"]


@pytest.mark.parametrize(
    "changes", [{"soup_accuracy": 0.9}, {"bytes_sent_per_member": 0}, {"soup_accuracy": None}, {"metric": "perplexity"}]
)
def test_bytes_per_point_are_a_dash_where_the_soup_gained_nothing_or_nothing_was_sent(changes: dict[str, Any]) -> None:
    column = next(column for column in COLUMNS if column.title.endswith("point"))
    assert column.cell(summary(**changes)) == "-"


def test_what_is_beyond_a_number_is_a_dash() -> None:
    scores: dict[str, Any] = {"soup": {"nll": 1e6}, "ensemble": {"nll": 1e6}}
    run = summary(metric="perplexity", scores=scores, member_nlls=[1e6, 1.0], seconds={"data": -1.0, "compute": None})
    cells = {column.title: column.cell(run) for column in COLUMNS}
    assert (cells["gap"], cells["spread"], cells["data/comp/\nred/exch %"], cells["soup"]) == ("-", "-", "-", "inf")


SCORES = {
    "member": {"accuracy": 0.4, "top5": 0.7, "nll": 2.0, "calibration_error": 0.01},
    "soup": {"accuracy": 0.5, "top5": 0.8, "nll": 1.5, "calibration_error": 0.0234},
    "ensemble": {"accuracy": 0.5, "top5": 0.8, "nll": 1.25, "calibration_error": 0.0234},
    "ema": {"accuracy": 0.451, "top5": 0.8, "nll": 1.75, "calibration_error": None},
}


def test_likelihood_calibration_disagreement_and_the_average_over_steps_have_columns() -> None:
    line = printed([summary(scores=SCORES, disagreement=0.0312)], 10, terminal=False).splitlines()[1]
    assert line.split()[11:15] == ["45.10", "3.12", "1.500", "2.34"]


def test_runs_on_text_show_perplexities_and_the_caption_says_so() -> None:
    runs = [summary("images"), summary("[b]text", metric="perplexity", scores=SCORES, disagreement=0.5)]
    lines = printed(runs, 10, terminal=False).splitlines()
    assert lines[2].split()[3:9] == ["7.39", "-", "-", "3.49", "4.48", "-"]
    assert lines[2].split()[9:14] == ["-", "+0.99", "5.75", "50.00", "1.500"]
    assert lines[3].endswith("Of text: perplexity in place of accuracy ([b]text), lower is better.")
    assert "perplexity" not in printed(runs[:1], 10, terminal=False)


def test_the_page_says_perplexities_of_text_and_escapes_their_names(tmp_path: Path) -> None:
    page = Page(page_text(load(make_run(tmp_path / "a", summary("<b>t", metric="perplexity", scores=SCORES)))))
    assert "4.48" in page.texts["td"]
    assert any(text.startswith("Perplexity on the test text, lower is better; spread") for text in page.texts["p"])
    assert not any("Accuracy in percent" in text for text in page.texts["p"])


def test_a_name_that_is_too_long_for_an_axis_keeps_its_block_and_its_parameter() -> None:
    names = [f"blocks.{block}.norm_before_attention.weight" for block in range(4)]
    assert [_clipped(name) for name in names] == [f"blocks.{block}.…e_attention.weight" for block in range(4)]
    assert _clipped("blocks.0.attend.weight") == "blocks.0.attend.weight"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_under_the_table_says_which_members_were_left_out(terminal: bool) -> None:
    runs = [summary("well"), summary("[b]sick", left_out_members=[1, 3])]
    last = printed(runs, 120, terminal).splitlines()[-1]
    assert last == "[b]sick: without member 1, 3, whose weights are not finite."
    assert "without member" not in printed([summary("well")], 120, terminal)


def test_a_line_under_the_table_names_greedy_soups_that_are_one_member() -> None:
    averaged = [summary("both", greedy_soup_members=[0, 2]), summary("none"), summary("one", num_members=1)]
    runs = [*averaged, summary("papa", greedy_soup_members=[1]), summary("alone", greedy_soup_members=[0])]
    assert printed(runs, 120, False).splitlines()[-1] == "The greedy soup is one member, no average, of: papa, alone."
    assert "no average" not in printed([*averaged, summary("x", num_members=1, greedy_soup_members=[0])], 120, False)


def test_names_are_no_markup_of_the_terminal() -> None:
    assert "[red]x[/red]" in printed([summary("[red]x[/red]")], 120, terminal=True)


def finished(*summaries: Summary) -> list[Run]:
    return [Run(Path(f"runs/{number}"), one.name, one, "") for number, one in enumerate(summaries)]


def test_the_csv_file_has_every_key_and_value() -> None:
    runs = finished(summary('a, "quoted"', seconds={"compute": 3.0, "data": 1.0}), summary("b"))
    rows = list(csv.DictReader(io.StringIO(csv_text(runs))))
    assert [row["name"] for row in rows] == ['a, "quoted"', "b"]
    assert rows[0]["soup_accuracy"] == "0.987"
    assert rows[0]["greedy_soup_accuracy"] == ""
    assert [row["folder"] for row in rows] == ["runs/0", "runs/1"]
    assert (rows[0]["data_share"], rows[0]["gap"], rows[0]["seconds.compute"]) == ("25.0", str(gap(summary())), "3.0")
    own = set(Summary.__dataclass_fields__) - {"scores", "seconds"}
    assert set(rows[0]) == {"folder", *own, *DERIVED, "seconds.compute", "seconds.data"}


def test_scores_are_columns_of_the_csv_file_for_all_runs() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(finished(summary("a"), summary("b", scores=SCORES))))))
    assert (rows[0]["scores.soup.nll"], rows[1]["scores.soup.nll"]) == ("", "1.5")
    assert rows[1]["scores.ema.calibration_error"] == ""
    assert list(rows[0])[-16:-12] == [f"scores.member.{name}" for name in SCORES["member"]]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, summary("same")) for name in ("a", "b")]
    other = make_run(tmp_path / "c", summary("other"))
    assert [run.label for run in load(*folders, other)] == [*map(str, folders), "other"]


def test_a_run_with_unreadable_metrics_stays_and_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", summary("broken"))
    (folder / "metrics/0000.h5").write_bytes(b"no HDF5")
    runs, problems = with_metrics(read_runs([folder])[0])
    assert [run.metrics for run in runs] == [None]
    assert len(problems) == 1
    assert "a/metrics/0000.h5" in problems[0]
    assert "No curves, because the metrics cannot be read: broken." in page_text(runs)


def series_of(runs: Sequence[Run], key: str) -> list[Series]:
    content = figure_of(runs, key).content
    assert isinstance(content, list)
    return content


def figure_of(runs: Sequence[Run], key: str) -> Figure:
    return next(figure for figure in figures(runs)[0] if figure.key == key)


def test_the_curves_are_the_records(tmp_path: Path) -> None:
    runs = load(make_run(tmp_path / "a", summary()))
    (loss,) = series_of(runs, "loss")
    assert [curve.name for curve in loss.curves] == ["demo, member 0", "demo, member 1"]
    assert [curve.x for curve in loss.curves] == [list(range(1, 31))] * 2
    assert loss.curves[0].y[4] is None  # not a number
    assert loss.curves[1].y[9] == 0.2
    assert series_of(runs, "accuracy")[0].curves[0].y[0] == 0.5
    (distance,) = series_of(runs, "consensus")[0].curves
    assert (distance.x, distance.y) == ([10, 20, 30], [1, 2, 3])
    soup, ensemble, mean = (series.curves[0] for series in series_of(runs, "evaluation"))
    assert (soup.x, soup.y) == ([10, 20, 30], [0.91, 0.92, 0.93])
    assert ensemble.y == [0.95] * 3
    assert mean.y == [0.925, 0.9625, 0.975]


def test_each_layer_has_a_row_and_each_distance_a_column(tmp_path: Path) -> None:
    content = figure_of(load(make_run(tmp_path / "a", summary())), "layers-0").content
    assert isinstance(content, HeatMap)
    assert (content.names, content.x) == (["conv", "fc"], [10, 20, 30])
    assert content.values == [[0.1, 0.2, 0.3], [None, None, None]]  # nothing has no place on a logarithmic scale


def test_layers_of_a_fifth_run_are_not_kept_and_counted_all_the_same(tmp_path: Path) -> None:
    runs = load(*(make_run(tmp_path / f"r{number}", summary(f"r{number}")) for number in range(5)))
    kept = [len(run.metrics.consensus_distance_per_layer) for run in runs if run.metrics is not None]
    assert kept == [30, 30, 30, 30, 0]
    assert figure_of(runs, "layers-3").about.endswith("Shown for the first 4 of 5 runs.")


def test_of_text_there_are_perplexities_and_no_accuracies(tmp_path: Path) -> None:
    runs = load(make_run(tmp_path / "a", summary("text", metric="perplexity", scores=SCORES)))
    keys = [figure.key for figure in figures(runs)[0]]
    assert "perplexity" in keys
    assert not {"evaluation", "accuracy", "bytes"} & set(keys)
    soup = series_of(runs, "perplexity")[0].curves[0]
    assert soup.y == pytest.approx([float(np.exp(0.3))] * 3, rel=1e-4)
    assert series_of(runs, "bytes-perplexity")[0].curves[0].y == pytest.approx([float(np.exp(1.5))], rel=1e-4)


def test_shares_of_the_time_add_up_and_name_what_is_left(tmp_path: Path) -> None:
    seconds: dict[str, float | None] = {"data": 10.0, "compute": 60.0, "reduce": 0.0, "exchange": 30.0}
    once = load(make_run(tmp_path / "a", summary(seconds=seconds, wall_seconds=200.0)))
    continued = load(make_run(tmp_path / "b", summary(seconds=seconds), attributes={"first_step": 5}))
    for runs, expected in ((once, [0.05, 0.3, 0.15, 0.5]), (continued, [0.1, 0.6, 0.3])):
        content = figure_of(runs, "time").content
        assert isinstance(content, Bars)
        assert [share for _, shares in content.parts for share in shares] == pytest.approx(expected)
    assert figure_of(once, "time").table()[1] == [["demo", "5.00 %", "30.00 %", "15.00 %", "50.00 %"]]


def test_nothing_sent_has_a_place_on_the_axis_of_bytes(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / f"r{sent}", summary(f"r{sent}", bytes_sent_per_member=sent))
        for sent in (0, 2500, 8_000_000)
    ]
    runs = load(*folders)
    places = [series.curves[0].x[0] for series in series_of(runs, "bytes")[:3]]
    nothing, little, much = places
    assert nothing is not None
    assert 0 < nothing < 2500 == little
    assert much == 8_000_000
    ticks = figure_of(runs, "bytes").x.ticks
    assert ticks[nothing] == "nothing"
    assert list(ticks.values())[-1] == "10 MB"


def test_long_curves_are_thinned_and_keep_their_ends_spikes_and_gaps() -> None:
    values = np.random.default_rng(0).normal(size=200_000)
    values[77_777], values[123_456], values[5000] = 90.0, -90.0, NAN
    rows = thinned(values, 1000)
    assert (rows[0], rows[-1]) == (0, 199_999)
    assert 900 < len(rows) <= 1003
    assert {77_777, 123_456, 5000} <= set(rows.tolist())
    assert (np.diff(rows) > 0).all()
    assert thinned(values[:7], 1000).tolist() == list(range(7))
    assert len(thinned(np.full(5000, NAN), 20)) <= 30


def test_each_of_a_few_runs_has_a_colour_and_a_style_of_its_own(tmp_path: Path) -> None:
    run = load(make_run(tmp_path / "a", summary()))[0]
    loss = series_of([replace(run, label=str(number)) for number in range(12)], "loss")
    assert len({(series.who.colour, series.who.dash) for series in loss}) == 12


def test_many_runs_have_the_colour_of_their_method(tmp_path: Path) -> None:
    run = load(make_run(tmp_path / "a", summary()))[0]
    runs = [
        replace(run, label=str(number), summary=summary(method="wash" if number % 2 else "papa"))
        for number in range(20)
    ]
    loss = series_of(runs, "loss")
    assert [series.who.label for series in loss] == ["papa (10 runs)", "wash (10 runs)"]
    assert [curve.name for curve in loss[1].curves] == [str(number) for number in range(1, 20, 2)]
    assert loss[0].curves[0].y[9] == 0.15  # of two members, 0.1 and 0.2


def test_the_numbers_of_a_figure_are_a_table(tmp_path: Path) -> None:
    runs = load(make_run(tmp_path / "a", summary()))
    heads, rows, left_out = figure_of(runs, "evaluation").table()
    assert heads == ["", "first", "lowest", "highest", "last"]
    assert rows[0] == ["demo: soup", "91.00 %", "91.00 %", "93.00 %", "93.00 %"]
    assert left_out == 0
    assert figure_of(runs, "bytes").table()[1][0] == ["demo: soup", "123 MB sent", "98.70 %"]
    assert figure_of(runs, "layers-0").table()[1][0] == ["conv", "0.1", "0.3"]


LANDSCAPE = {
    "num_images": 100,
    "split": "test",
    "num_statistics_images": 0,
    "lines": [
        {
            "start": "member 0",
            "end": end,
            "at": [0.0, 0.5, 1.0],
            "recomputed": {"loss": [1.0, peak, None], "loss_barrier": peak - 1, "error_barrier": 0.25},
        }
        for end, peak in (("member 1", 3.0), ("soup", 1.5))
    ],
}


def test_barriers_are_shown_where_landscape_data_are(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", summary())
    (folder / "landscape").mkdir()
    (folder / "landscape/landscape.json").write_text(json.dumps(LANDSCAPE))
    figure = figure_of(load(folder), "barriers-0")
    assert "Highest barrier between members: 2 in loss, 25.00 points of error." in figure.about
    assert isinstance(figure.content, list)
    assert figure.content[0].curves == [Curve("member 0 to member 1", [0.0, 0.5, 1.0], [1.0, 3.0, None])]
    assert [series.who.label for series in figure.content] == ["between members", "member to soup"]


@pytest.mark.parametrize("content", ["{", "[]", '{"lines": 3, "num_statistics_images": 1}', '{"lines": [{}]}'])
def test_unreadable_landscape_data_are_said_and_the_rest_is_shown(tmp_path: Path, content: str) -> None:
    folder = make_run(tmp_path / "a", summary())
    (folder / "landscape").mkdir()
    (folder / "landscape/landscape.json").write_text(content)
    found, (problem,) = figures(load(folder))
    assert "landscape.json" in problem
    assert not any(figure.key.startswith("barriers") for figure in found)
    assert "landscape.json" in page_text(load(folder))


def test_the_command_that_repeats_a_run_is_one_a_shell_takes(tmp_path: Path) -> None:
    run = load(make_run(tmp_path / "my run", summary("a;b", num_members=4, num_replicas=2)))[0]
    config = tmp_path / "my run/config.yaml"
    assert repeat_command(run) == f"mpirun -n 8 wash-hpc train '{config}' 'run.name=a;b-again'"


def test_every_figure_becomes_files_which_are_equal_for_equal_runs(tmp_path: Path) -> None:
    runs = load(make_run(tmp_path / "a", summary("$x_{$", seconds={"compute": 2.0, "exchange": 1.0})))
    found = figures(runs)[0]
    files = write_report_figures(tmp_path / "first", found)
    assert {file.name for file in files} == {f"{figure.key}.{kind}" for figure in found for kind in ("png", "svg")}
    for file, again in zip(files, write_report_figures(tmp_path / "second", found), strict=True):
        assert file.read_bytes() == again.read_bytes()
    assert b"svg" in files[1].read_bytes()[:200]


def test_alarms_stand_above_the_table_with_their_advice(tmp_path: Path) -> None:
    run = load(make_run(tmp_path / "a", summary(EVIL), num_records=60))[0]
    page = Page(page_text([run]))
    parts = ["alarms", "runs"]
    assert [attributes["id"] for _, attributes in page.elements if attributes.get("id") in parts] == parts
    said = alarms(run.metrics, run.summary, run.sections) if run.metrics is not None else []
    assert said != []
    assert page.texts["li"][-len(said) :] == [f": {alarm}" for alarm in said]
    assert EVIL in page.texts["b"]


def test_the_page_loads_nothing_and_holds_plotly_once(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_page(file, load(make_run(tmp_path / "a", summary())))
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    loading = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in {"src", "href", "srcset"} and not str(value).startswith("#")
    ]
    assert loading == []
    assert page.count("link") == 0
    policy = next(attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    scripts = [text for text in page.texts["script"] if not text.startswith("[{")]
    hashes = [f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts]
    assert f"script-src {' '.join(hashes)};" in policy
    assert sum(len(script) > 1_000_000 for script in page.texts["script"]) == 1
    assert file.stat().st_size < 6_000_000


def test_the_page_has_a_place_for_each_figure_and_a_heading_for_each_part(tmp_path: Path) -> None:
    text = page_text(load(make_run(tmp_path / "a", summary("my run"))))
    page = Page(text)
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    keys = [str(figure["key"]) for figure in page.figures()]
    assert keys == ["evaluation", "loss", "accuracy", "consensus", "layers-0", "bytes", "lr"]
    assert set(keys) <= ids
    assert page.texts["title"] == page.texts["h1"] == ["WASH report: my run"]
    assert page.count("h2") == len(keys) + 3  # runs, configurations, and alarms, which this run has
    assert "prefers-color-scheme: dark" in text
    assert page.texts["pre"][1:] == ["run:\n  name: my run\n"]
    tables = [table for tag, table in page.elements if tag == "details" and table.get("class") == "numbers"]
    assert len(tables) == len(keys)
    assert "98.70" in page.texts["td"]


def test_a_run_cannot_write_into_the_page(tmp_path: Path) -> None:
    harmless = Page(page_text(load(make_run(tmp_path / "a", summary("harmless")))))
    evil = Page(page_text(load(make_run(tmp_path / "b", summary(EVIL)))))
    assert [tag for tag, _ in evil.elements] == [tag for tag, _ in harmless.elements]
    assert evil.texts["pre"][1:] == [f"run:\n  name: {EVIL}\n"]
    assert EVIL in evil.texts["span"]
    names = {name for figure in evil.figures() for trace in figure["data"] for name, _ in trace.get("names", [])}
    assert '&lt;/script&gt;&lt;script&gt;alert("x")&lt;/script&gt;, member 0' in names
    assert not any("<" in name for name in names)


def test_many_runs_still_make_a_small_page(tmp_path: Path) -> None:
    run = load(make_run(tmp_path / "a", summary(), num_records=500))[0]
    runs = [replace(run, label=f"run {number}") for number in range(40)]
    assert len(page_text(runs)) < 6_000_000


def test_a_page_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"nowhere/report\.html: cannot be written"):
        write_page(tmp_path / "nowhere/report.html", load(make_run(tmp_path / "a", summary())))


def test_without_plotly_the_install_command_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = load(make_run(tmp_path / "a", summary()))
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingDependencyError, match=r"plotly is not installed.*pip install 'wash_hpc\[report\]'"):
        page_text(runs)
