"""The errors that a user can mend, and nothing else.

Each names the key or file, the value it has and what was expected. They are raised before the first collective, or
inside `World.agreed`, so that every rank stops with the same sentence. Anything that is not a `WashError` is a defect
or a fault: it propagates and aborts the job.
"""

from __future__ import annotations

import unicodedata

STATUS_STOPPED = 3
STATUS_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: try again later


def printable(text: str) -> str:
    """A line in which control characters, and what is no Unicode, are written out as Python would.

    Names of files and runs, which others have chosen, could otherwise move a terminal's cursor or look like other lines
    of a log.
    """
    if text.isprintable():
        return text
    return "".join(_written_out(character) for character in text)


def _written_out(character: str) -> str:
    is_plain = unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return character if is_plain else ascii(character)[1:-1]


class WashError(Exception):
    """A user's mistake, said in one sentence; the command line prints it without a traceback and exits with `status`.

    Attributes:
        agreed: all ranks raise it together, so that none is left waiting.
        status: of the command line's exit.
    """

    agreed = False
    status = 2

    def __str__(self) -> str:
        """The sentence, `printable`."""
        return printable(super().__str__())


class ConfigError(WashError):
    """A configuration key or value that cannot be used."""


class DataError(WashError):
    """A data set that is absent, incomplete or unreadable."""


class RunFolderError(WashError):
    """A run folder that exists where it must not, or lacks what it should hold."""


class WeightsError(WashError):
    """A file of weights that cannot be read, or does not fit the others."""


class WorldError(WashError):
    """Ranks, members and replicas that do not fit each other, or ranks that disagree."""


class HealthError(WashError):
    """Members whose values are not finite, in mid-run; as a rule all ranks see that together."""

    agreed = True


class StoppedError(WashError):
    """A run that was asked to stop before its end; no mistake, and nothing is lost.

    Attributes:
        status: 3, or 75 where its time was over and it is to be started again.
    """

    agreed = True
    status = STATUS_STOPPED


class MissingDependencyError(WashError):
    """An optional library that is asked for and not installed.

    Args:
        library: what is missing, as its project writes it.
        install: the command that installs it.
        instead: what else the user can do, as the end of a sentence; empty where there is nothing.
    """

    def __init__(self, library: str, install: str, instead: str = "") -> None:
        self._said = (library, install, instead)
        super().__init__(
            f"{library} is not installed; install it with: {install}" + (f"  ({instead})" if instead else "")
        )

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str, str]]:
        """It travels between ranks."""
        return type(self), self._said
