"""When averaging fails: estimates on losses known in closed form, conditions and the tool on made-up looks."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wash_hpc.ensemble.condition import (
    Case,
    Condition,
    fit_condition,
    judge,
    judge_majority,
    rise_from_minima,
    rise_in_one_quadratic,
    spearman,
)
from wash_hpc.report.basin_condition import main
from wash_hpc.report.basin_rows import PREDICTORS


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_in_a_quadratic_the_soup_differs_from_the_mean_member_by_curvature_times_squared_distance_over_two():
    """Three members anywhere in a bowl, or a dome, with a gradient, that is bent alike along the lines between them."""
    torch.manual_seed(0)
    members = torch.randn(3, 6, dtype=torch.float64)
    soup = members.mean(dim=0)
    lines = torch.stack([members[0] - members[1], members[0] - members[2]])
    within = torch.linalg.pinv(lines) @ lines  # on the plane of the members
    gradient = torch.randn(6, dtype=torch.float64)
    distance = float((members - soup).square().sum(dim=1).mean().sqrt())
    for curvature in (3.0, -0.5):
        bowl = curvature * within + 7.0 * (torch.eye(6, dtype=torch.float64) - within)

        def loss(point: torch.Tensor, bowl: torch.Tensor = bowl) -> float:
            return float(gradient @ point + 0.5 * point @ bowl @ point)

        unit = (members[1] - members[2]) / (members[1] - members[2]).norm()
        assert float(unit @ bowl @ unit) == pytest.approx(curvature)
        rise = loss(soup) - mean([loss(member) for member in members])
        assert rise_in_one_quadratic(curvature, distance) == pytest.approx(rise, rel=1e-9)


def test_above_minima_the_soup_rises_by_curvature_times_squared_distance_over_two():
    """Each member at the bottom of a bowl of its own, which ends where the next begins."""
    members = 5.0 * torch.eye(4, dtype=torch.float64)
    soup = members.mean(dim=0)
    curvature = 0.3

    def loss(point: torch.Tensor) -> float:
        return float((0.5 * curvature * (members - point).square().sum(dim=1)).min())

    distance = float((members - soup).square().sum(dim=1).mean().sqrt())
    rise = loss(soup) - mean([loss(member) for member in members])
    assert rise_from_minima(curvature, distance) == pytest.approx(rise, rel=1e-9)
    assert rise > 0


def test_members_that_are_one_do_not_rise_and_what_is_unknown_stays_so():
    assert rise_from_minima(math.nan, 0.0) == rise_in_one_quadratic(math.nan, 0.0) == 0.0
    assert math.isnan(rise_from_minima(1.0, math.nan))
    assert math.isnan(rise_from_minima(math.nan, 1.0))


def cases(*pairs: tuple[float, bool]) -> list[Case]:
    return [Case(f"run@{number}", failed, {"d": value}) for number, (value, failed) in enumerate(pairs)]


def test_a_number_that_separates_gives_a_threshold_between_and_is_right_on_others():
    verdict = judge("d", cases((0.01, False), (1.0, True), (0.001, False)), cases((0.05, False), (3.0, True)))
    assert verdict.condition is not None
    assert verdict.condition.threshold == pytest.approx(0.1)  # half way between the logarithms of 0.01 and 1
    assert (verdict.fit_right, verdict.num_fit, verdict.right, verdict.wrong) == (3, 3, 2, [])


def test_averaging_may_fail_below_a_threshold_and_negative_numbers_have_it_half_way():
    assert fit_condition([(-1.0, True), (2.0, False)]) == Condition(0.5, fails_above=False)
    assert fit_condition([(-1.0, False), (2.0, True)]) == Condition(0.5, fails_above=True)


def test_a_number_that_does_not_separate_is_wrong_of_the_fewest_and_names_where():
    fitted = cases((1.0, False), (2.0, True), (3.0, False), (4.0, True), (5.0, True))
    verdict = judge("d", fitted, cases((0.5, True), (9.0, True), (9.5, False), (math.nan, True), (math.inf, True)))
    assert verdict.condition == Condition(pytest.approx(math.sqrt(2.0)), fails_above=True)  # the lowest of equally good
    assert (verdict.fit_right, verdict.right) == (4, 1)
    assert verdict.wrong == ["run@0", "run@2", "run@3", "run@4"]  # what has no number is not known


def test_equal_numbers_are_on_one_side_of_a_threshold():
    found = fit_condition([(1.0, False), (1.0, True), (1.0, False), (2.0, True)])
    assert found is not None
    assert 1.0 < found.threshold < 2.0
    neighbours = fit_condition([(1.0, False), (math.nextafter(1.0, 2.0), True)])
    assert neighbours is not None
    assert not neighbours.says_failed(1.0)
    assert neighbours.says_failed(math.nextafter(1.0, 2.0))


@pytest.mark.parametrize(
    "pairs",
    [[(1.0, True), (2.0, True)], [(1.0, False)], [(1.0, True), (1.0, False)], [(math.nan, True), (1.0, False)], []],
)
def test_no_condition_comes_of_one_outcome_or_one_number(pairs):
    assert fit_condition(pairs) is None
    verdict = judge("d", cases(*pairs), cases((1.0, True)))
    assert (verdict.condition, verdict.right, verdict.wrong) == (None, 0, ["run@0"])


def test_the_yardstick_is_what_most_fitted_rows_did():
    fitted = cases((1.0, False), (1.0, False), (1.0, True))
    assert judge_majority(fitted, cases((1.0, False), (1.0, True), (1.0, True))) == (False, 1)


def test_ranks_are_correlated_over_the_pairs_that_are_numbers():
    assert spearman([1.0, 2.0, math.nan, 30.0], [1.0, 4.0, 0.0, 5.0]) == pytest.approx(1.0)
    assert spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert math.isnan(spearman([1.0, math.nan, 3.0], [3.0, 2.0, 1.0]))
    assert math.isnan(spearman([1.0, 1.0, 1.0], [3.0, 2.0, 1.0]))


def look(seed: int, step: int, bend: float, soup: float) -> dict[str, Any]:
    """As tools/landscape.py writes it: two members, bent so; the soup has this accuracy, the ensemble 0.9."""
    ends = [("member 0", "member 1"), ("member 0", "soup"), ("member 1", "soup")]
    own = [1.0, 1.0, 1.0]  # of lines between members
    return {
        "name": "run",
        "method": "wash",
        "seed": seed,
        "step": step,
        "split": "test",
        "num_images": 100,
        "num_statistics_images": 10,
        "soup_norm": 10.0,
        "averaging": {
            "members": [{"loss": 0.4, "accuracy": 0.8}, {"loss": 0.6, "accuracy": 0.8}],
            "ensemble": {"loss": 0.3, "accuracy": 0.9},
            "soup": {"loss": 0.7, "accuracy": soup},
        },
        "lines": [
            {"end": end, "recomputed": {"loss_barrier": 0.25 if end != "soup" else 9.0}, "raw": {}} for _, end in ends
        ],
        "curvature": [
            {
                "end": end,
                "second_derivative": [bend, -bend, 3 * bend] if end != "soup" else [9.0, 9.0, 9.0],
                "second_difference": own,
            }
            for _, end in ends
        ],
        "layers": [{"distance": 3.0}, {"distance": 4.0}],
    }


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(run: str, content: dict[str, Any], step: int | None = None) -> Path:
        folder = tmp_path / "runs" / run
        place = folder / "landscape" / ("" if step is None else f"step-{step:08d}")
        place.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text("{}\n")
        (place / "landscape.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.fixture
def runs(write: Write, tmp_path: Path) -> Path:
    """Two seeds of a run that holds and one that fails, two steps each; the last step of one was looked at twice."""
    for seed in (0, 1):
        write(f"held-{seed}", look(seed, 100, 0.01, 0.9), 100)
        write(f"held-{seed}", look(seed, 200, 0.02, 0.895))
        write(f"lost-{seed}", look(seed, 100, 1.0, 0.5), 100)
        write(f"lost-{seed}", look(seed, 200, 5.0, 0.1))
    write("held-0", look(0, 200, 77.0, 0.1), 200)
    return tmp_path / "runs"


def test_a_row_has_what_the_files_hold_and_the_judgement_is_on_the_other_seed(runs, tmp_path, capsys):
    assert main([str(runs), "--json", "--csv", str(tmp_path / "rows.csv")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["run"], row["step"]) for row in found["rows"]] == [
        (f"{kind}-{seed}", step) for kind in ("held", "lost") for seed in (0, 1) for step in (100, 200)
    ]
    row = found["rows"][4]
    assert (row["distance"], row["relative_distance"], row["barrier"]) == (5.0, 0.5, 0.25)
    assert (row["curvature_members"], row["curvature_middle"]) == (2.0, -1.0)
    assert (row["estimate_members"], row["estimate_middle"]) == (25.0, 12.5)
    assert (row["estimate_members_recomputed"], row["estimate_middle_recomputed"]) == (12.5, -12.5)
    assert (row["ensemble_rise"], row["member_rise"]) == (pytest.approx(0.4), pytest.approx(0.2))
    assert (row["gap"], row["failed"]) == (40.0, True)
    assert [row["failed"] for row in found["rows"]] == [False] * 4 + [True] * 4
    assert (found["fitted"], found["num_others"]) == (["held-0", "lost-0"], 4)
    best = found["verdicts"][0]
    assert (best["predictor"], best["right"], best["wrong"]) == ("estimate_members", 4, [])
    distance = next(verdict for verdict in found["verdicts"] if verdict["predictor"] == "distance")
    assert distance["condition"] is None  # the same everywhere
    assert (found["with_gap"]["estimate_middle"], found["with_gap"]["distance"]) == (pytest.approx(1.0), None)
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["estimate_members"]) for row in rows[:2]] == [0.25, 0.5]  # the final weights, not the checkpoint


def test_the_text_says_where_each_condition_was_wrong(runs, write, capsys):
    write("odd-1", look(1, 100, 5.0, 0.9))
    assert main([str(runs), "--fit", "*-0"]) == 0
    text = capsys.readouterr().out
    assert "Averaging failed in 4 of 9 rows" in text
    assert "on 100 test images" in text
    assert "Fitted on held-0, lost-0; judged by the 5 rows of the others." in text
    said = "- Averaging fails where curvature at members x d^2/2 is above 3.54: right in 4 of 5, wrong in odd-1@100"
    assert f"{said} (held)." in text
    assert "consensus distance d: no condition" in text
    assert "right in 2 of these" in text  # a tie counts as failing
    lines = text.splitlines()
    assert len({len(line) for line in lines[:10]}) == 1


def test_steps_points_and_markdown(runs, capsys):
    assert main([str(runs), "--steps", "200", "--points", "0.4", "--markdown"]) == 0
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith(("| held", "| lost"))]
    assert [line.split(" | ")[1] for line in rows] == ["200"] * 4
    assert all(line.endswith("| failed |") for line in rows)
    assert "no condition, as fitted rows do not have both outcomes" in text


def test_what_cannot_be_shown_is_named_and_the_rest_is(runs, write, tmp_path, capsys):
    old = look(0, 100, 1.0, 0.5)
    del old["averaging"], old["seed"], old["step"]
    write("old-0", old)
    write("part-0", {**look(0, 100, 1.0, 0.5), "curvature": None})
    write("odd-0", {**look(0, 100, 1.0, 0.5), "layers": [3]})
    write("short-0", look(0, 300, 1.0, 0.5))
    (tmp_path / "runs/none-0").mkdir()
    (tmp_path / "runs/none-0/config.yaml").write_text("{}\n")
    assert main([str(runs), "--steps", "100"]) == 1
    said = capsys.readouterr()
    assert [line.split(":", 2)[1:] for line in said.err.splitlines()] == [
        [f" {runs}/none-0", " holds no landscape/landscape.json, nor of a step: run tools/landscape.py"],
        [f" {runs}/odd-0/landscape/landscape.json", f" is not as tools/landscape.py writes it: {AGAIN}"],
        [f" {runs}/old-0/landscape/landscape.json", f" has no averaging, seed, step: {AGAIN}"],
        [f" {runs}/part-0/landscape/landscape.json", f" has no curvature: {AGAIN}"],
        [f" {runs}/short-0", " no look at step 100; there are 300"],
    ]
    assert "held-1" in said.out
    assert main([str(runs / "none-0")]) == 2
    assert main([str(runs), "--fit", "nothing"]) == 2
    assert "--fit nothing: there is no such run; there are held-0, held-1" in capsys.readouterr().err


AGAIN = "run tools/landscape.py again, with at least --parts averaging,lines,curvature,distance"


def test_nulls_are_no_numbers_and_one_run_is_shown_without_a_judgement(write, capsys):
    content = look(0, 100, 1.0, 0.5)
    content["averaging"]["soup"]["loss"] = None
    content["lines"][0]["recomputed"]["loss_barrier"] = None
    run = write("run", content)
    assert main([str(run)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[1].split()[-5:] == ["-", "-", "-", "40.00", "failed"]
    assert "name two at least" in text


def test_members_that_are_one_have_no_lines_of_any_length_and_no_rise(write, capsys):
    content = {**look(0, 100, 1.0, 0.9), "curvature": [], "layers": [{"distance": 0.0}]}
    assert main([str(write("run", content)), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["curvature_middle"], row["estimate_middle"], row["estimate_members"]) == (None, 0.0, 0.0)
    assert set(PREDICTORS) <= set(row)


def test_tables_are_written_between_the_comments_of_the_page(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(runs), "--write"]) == 2
    Path("docs").mkdir()
    page = Path("docs/results.md")
    page.write_text("before\n")
    assert main([str(runs), "--write"]) == 2
    assert "holds no <!-- made by tools/basin_condition.py --write -->" in capsys.readouterr().err
    page.write_text("before\n<!-- made by tools/basin_condition.py --write -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        assert main([str(runs), "--write"]) == 0
        before, table, after = page.read_text().partition("| run | step |")
        mark = "<!-- made by tools/basin_condition.py --write -->"
        assert re.fullmatch(rf"before\n{mark}\n\n<details><summary>All \d+ rows</summary>\n\n", before)
        assert table
        assert after.endswith("\n\n<!-- end -->\nafter\n")
        assert "old" not in after


@pytest.mark.parametrize("argument", ["--steps=a", "--points=nan", "--points=x"])
def test_a_wrong_option_is_refused(argument, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["RUN", argument])
    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err
