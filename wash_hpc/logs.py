"""What a run says while it goes on: a progress bar on a terminal, plain lines in a log file. Only the root speaks."""

from __future__ import annotations

import sys
import time
from typing import Literal, NoReturn

from tqdm import tqdm

from wash_hpc.durations import format_seconds
from wash_hpc.errors import printable

# While a run is new somebody looks whether it works; a log of days is looked at later, and has to stay short.
_SECONDS_BETWEEN_LINES, _SECONDS_BETWEEN_LATER_LINES = 10.0, 60.0
_SECONDS_NEW = 600.0


class ProgressReport:
    """Shows how far a run is.

    Args:
        mode: `bar`, `lines`, `off`, or `auto`: a bar where the output is a terminal. Under mpirun it never is, whatever
            the person who started it looks at; so tools/demo.sh asks for the bar. Lines begin with the time: in a job's
            log, often of several starts, that says when something happened, and for how long nothing did.
        name: of the run.
        first_step: steps already done.
        num_steps: of the whole run.
        speaks: whether this rank says anything.
    """

    def __init__(
        self, mode: Literal["auto", "bar", "lines", "off"], name: str, first_step: int, num_steps: int, speaks: bool
    ) -> None:
        if mode == "auto":
            mode = "bar" if sys.stderr.isatty() else "lines"
        self._name = name
        self._num_steps = num_steps
        self._lines = speaks and mode == "lines"
        self._began = time.monotonic()
        self._next_line_at = self._began
        self._first: tuple[int, float] | None = None  # record: its step, and when it came
        self._bar: tqdm[NoReturn] | None = None
        if speaks and mode == "bar":
            self._bar = tqdm(desc=name, total=num_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def show_step(self, step: int, loss: float, images_per_second: float) -> None:
        """Say the mean loss and rate of the members, and what time is left.

        Lines come ten seconds apart in the first ten minutes, then one a minute, and one at the last step.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = step, now
        rate = f"{images_per_second:.0f} img/s a member"
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {rate}", refresh=False)
            self._bar.update(step - self._bar.n)
        elif now >= self._next_line_at or step == self._num_steps:
            is_new = now - self._began < _SECONDS_NEW
            self._next_line_at = now + (_SECONDS_BETWEEN_LINES if is_new else _SECONDS_BETWEEN_LATER_LINES)
            left = self._describe_left(step, now)
            self.say(f"step {step}/{self._num_steps}  loss {loss:.4f}  {rate}{left}")

    def show_evaluation(self, step: int, metric: str, member: float, ensemble: float, soup: float) -> None:
        """Say the metric, accuracy or perplexity, on test data: the members' mean, their ensemble's, their soup's."""
        style = ".2%" if metric == "accuracy" else ".2f"
        found = f"members {member:{style}}, ensemble {ensemble:{style}}, soup {soup:{style}}"
        self.say(f"step {step}/{self._num_steps}  test {metric}: {found}")

    def say(self, sentence: str) -> None:
        """Say something about the run."""
        text = f"{self._name}: {sentence}"
        if self._bar is not None:
            # Where the bar is: mpirun forwards two streams in any order.
            self._bar.write(printable(text), file=sys.stderr)
        elif self._lines:
            say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    def _describe_left(self, step: int, now: float) -> str:
        """The time left at the pace since the first record, evaluations included, and what the start took left out."""
        assert self._first is not None
        first_step, since = self._first
        if step <= first_step or step == self._num_steps:
            return ""
        return f"  {format_seconds((now - since) / (step - first_step) * (self._num_steps - step))} left"

    def close(self) -> None:
        """Leave the bar as it is and go to a new line."""
        if self._bar is not None:
            self._bar.close()


def say(text: str) -> None:
    """Print a line of a log; called by the root alone."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()  # a log file is read while it is written
