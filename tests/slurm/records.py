"""What `scontrol show` prints, as dictionaries."""

from __future__ import annotations

import re

FIELD = re.compile(r"(?<!\S)([A-Z][\w/:]*)=(\S*)")
# The user's own words: they go on to the end of the line, whatever they look like.
FREE_TEXT = re.compile(r"(?<!\S)(AdminComment|Command|Comment|JobName|StdErr|StdIn|StdOut|WorkDir)=(.*)$")


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
