"""What `wash-hpc evaluate` prints of texts and of members that were left out; of images, see the training tests."""

from __future__ import annotations

import json
import math

import pytest
import torch

from wash_hpc.ensemble.judged import Evaluation, JudgedSoup
from wash_hpc.ensemble.landscape import LayerDistance
from wash_hpc.ensemble.scores import NO_SCORES, Metric, Scores
from wash_hpc.ensemble.soup import Weights
from wash_hpc.evaluate_report import JudgedRun

SOUP = Weights(torch.zeros(2), torch.zeros(0))
GOOD, BAD = Scores(0.5, 0.75, math.log(4), 0.0125), Scores(0.25, 0.5, math.log(12.5), 0.5)


def judged(metric: Metric, members: list[Scores], greedy: JudgedSoup | None = None) -> JudgedRun:
    kinds = ("member", "best_member", "ensemble", "ensemble_probabilities", "soup", "soup_raw")
    left_out = [member for member, scores in enumerate(members) if scores is NO_SCORES]
    scores = dict.fromkeys(kinds, GOOD)
    disagreement = math.nan if len(members) - len(left_out) < 2 else 0.125
    evaluation = Evaluation(members, scores, disagreement, SOUP, 7, left_out)
    distances = [LayerDistance("a", 1, 3.0, 0.1), LayerDistance("b", 1, 4.0, 0.1)]
    return JudgedRun("run", "test", metric, evaluation, greedy, distances)


def test_of_text_perplexity_comes_first():
    lines = judged("perplexity", [GOOD, BAD]).as_table().splitlines()
    assert lines[0] == "run: 7 test windows of text"
    assert lines[1].split()[:2] == ["perplexity", "accuracy"]
    assert [line.split()[2:4] for line in lines[2:4]] == [["4.00", "50.00%"], ["12.50", "25.00%"]]
    assert lines[-2:] == ["  pairs of members disagree on 12.50% of predictions", "  consensus distance 5"]
    assert len({line.index("%") for line in lines[2:9]}) == 1


def test_a_member_that_was_left_out_is_dashes_in_the_table_and_null_for_programs():
    run = judged("accuracy", [GOOD, NO_SCORES])
    lines = run.as_table().splitlines()
    assert lines[3].split(maxsplit=6) == ["member", "1", *"----", "left out: its weights are not finite"]
    assert not any("disagree" in line for line in lines)
    found = json.loads(run.as_json(), parse_constant=pytest.fail)
    assert (found["members"][1], found["member_accuracy"], found["disagreement"]) == (None, [0.5, None], None)
    assert found["left_out_members"] == [1]
    assert found["consensus_distance_per_layer"] == {"a": 3.0, "b": 4.0}


def test_a_likelihood_that_is_infinite_is_null_and_the_greedy_soup_says_who_is_in_it():
    greedy = JudgedSoup([1, 0], Scores(0.5, 0.5, math.inf, 0.1), SOUP)
    run = judged("accuracy", [GOOD, BAD], greedy)
    found = json.loads(run.as_json(), parse_constant=pytest.fail)
    assert found["scores"]["greedy_soup"] == {"accuracy": 0.5, "top5": 0.5, "nll": None, "calibration_error": 0.1}
    assert found["greedy_soup_members"] == [1, 0]
    assert "of members 1, 0, statistics recomputed" in run.as_table()
