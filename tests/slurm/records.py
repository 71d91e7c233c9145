"""What `scontrol show` prints, as dictionaries, and what a test wants of it: how a job ended."""

from __future__ import annotations

import re
from dataclasses import dataclass

ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
UP = {"IDLE", "MIXED", "ALLOCATED"}
FIELD = re.compile(r"(?<!\S)([A-Z][\w/:]*)=(\S*)")
# The user's own words: they go on to the end of the line, whatever they look like.
FREE_TEXT = re.compile(r"(?<!\S)(AdminComment|Command|Comment|JobName|StdErr|StdIn|StdOut|WorkDir)=(.*)$")


@dataclass(frozen=True)
class Job:
    """A job, or one task of a job array, that has ended.

    Attributes:
        state: such as COMPLETED or FAILED.
        exit_code: of the batch script, as Slurm writes it: exit status, colon, signal.
        num_restarts: how often Slurm started it anew.
        log: what it wrote.
    """

    state: str
    exit_code: str
    num_restarts: int
    log: str


def parse_records(shown: str) -> list[dict[str, str]]:
    """The records of jobs or nodes, each a dictionary by key; an empty line ends a record.

    A job's name, arguments and comment may hold anything, `JobState=FAILED` included, except line breaks.
    """
    records = []
    for paragraph in shown.split("\n\n"):
        record = {}
        for line in paragraph.splitlines():
            free_text = FREE_TEXT.search(line)
            record.update(FIELD.findall(line[: free_text.start()] if free_text else line))
            if free_text:
                record[free_text[1]] = free_text[2]
        if record:
            records.append(record)
    return records
