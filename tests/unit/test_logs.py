"""What a run says: a bar on a terminal, lines in a file, nothing on ranks other than the root."""

from __future__ import annotations

from wash_hpc.logs import ProgressReport


def report(mode, speaks: bool = True) -> None:
    progress = ProgressReport(mode, "run-1", 0, 40, speaks)
    progress.show_step(10, 1.25, 640.0)
    progress.show_evaluation(20, "accuracy", 0.5, 0.75, 0.625)
    progress.show_evaluation(30, "perplexity", 4.5, 3.25, 12.346)
    progress.show_step(40, 0.5, 650.0)
    progress.close()


def test_bar_shows_loss_and_rate(capsys):
    report("bar")
    shown = capsys.readouterr()
    assert "40/40" in shown.err
    assert "loss 0.5000, 650 img/s a member" in shown.err
    assert "ensemble 75.00%, soup 62.50%" in shown.err
    assert shown.out == ""


def test_lines_say_the_first_and_the_last_step_and_every_evaluation(capsys):
    report("lines")
    assert capsys.readouterr().out.splitlines() == [
        "run-1: step 10/40  loss 1.2500  640 img/s a member",
        "run-1: step 20/40  test accuracy: members 50.00%, ensemble 75.00%, soup 62.50%",
        "run-1: step 30/40  test perplexity: members 4.50, ensemble 3.25, soup 12.35",
        "run-1: step 40/40  loss 0.5000  650 img/s a member",
    ]


def test_without_a_terminal_auto_means_lines(capsys):
    report("auto")
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 4
    assert shown.err == ""


def test_nothing_is_said_when_switched_off_or_by_ranks_other_than_the_root(capsys):
    report("off")
    report("bar", speaks=False)
    report("lines", speaks=False)
    assert capsys.readouterr() == ("", "")
