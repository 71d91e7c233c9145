"""What the demo shows, with its own configurations: four members of different initialisations on real JPEG files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import mpirun
from wash_hpc.storage.metrics import read_metrics
from wash_hpc.storage.summary import Summary, read_summary


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    """The folder of both runs."""
    folder = tmp_path_factory.mktemp("demo")
    for method in ("independent", "wash"):
        config = f"configs/digits_{method}.yaml"
        where = [f"run.dir={folder}", f"run.name={method}", f"data.path={digits_folder}"]
        done = mpirun(4, "wash-hpc", "train", config, *where, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "test accuracy: members" in done.stdout
    return folder


def accuracies(summary: Summary) -> tuple[float, float, float]:
    """Soup, ensemble, best member."""
    soup, ensemble, best = summary.soup_accuracy, summary.ensemble_accuracy, summary.best_member_accuracy
    assert soup is not None
    assert ensemble is not None
    assert best is not None
    return soup, ensemble, best


def test_the_soup_of_independent_members_is_at_least_twenty_points_under_their_ensemble(runs):
    soup, ensemble, _ = accuracies(read_summary(runs / "independent"))
    assert soup <= ensemble - 0.20
    assert ensemble >= 0.95


def test_the_soup_of_wash_is_as_good_as_its_ensemble_and_its_best_member(runs):
    soup, ensemble, best = accuracies(read_summary(runs / "wash"))
    assert soup >= 0.95
    assert soup >= ensemble - 0.010
    assert soup >= best - 0.010


def test_wash_sends_what_its_formula_says_and_independent_members_nothing(runs):
    assert read_summary(runs / "independent").bytes_sent_per_member == 0
    sent = read_metrics(runs / "wash").bytes_sent
    assert (sent[-1] > 0).all()
    steps = read_metrics(runs / "wash").step
    assert (sent[steps >= 400] == sent[-1]).all()  # method.stop
