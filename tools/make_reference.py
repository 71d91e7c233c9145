#!/usr/bin/env python3
"""Write docs/configuration.md and docs/metrics.md out of the code, so that they say what it says.

The meaning of a key is the comment behind its field in wash_hpc/config.py, its range what `ranges` expects of it; the
meaning of a metric is its line in the docstrings of `storage/records.py` and `storage/summary.py`. A test fails where
the pages are not what this makes.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone that is not installed

from wash_hpc import config as config_module
from wash_hpc.config import Config, MethodConfig, SingleMethodConfig
from wash_hpc.method_kinds import KINDS
from wash_hpc.ranges import MOST, rules_of
from wash_hpc.storage.records import EVALUATE, TRAIN, Dataset, EvaluationRecord, TrainRecord
from wash_hpc.storage.summary import Summary

DOCS = Path(__file__).resolve().parent.parent / "docs"
MADE = "<!-- Made by `python tools/make_reference.py` out of the code: change that, and run it. -->"

CONFIGURATION = f"""{MADE}

# Every key of the configuration

A configuration is a YAML file with these sections; what it does not say has the default. On the command line each key
is `section.key=value`, and wins over the file. A run's own, whole, is its `config.yaml`. `wash-hpc plan CONFIG
key=value ...` finds a wrong key or value before a job does. Where a list is allowed (`or a list of such`), each member
draws one of its values. `null` is nothing.
"""

METRICS = f"""{MADE}

# Every metric

What a run writes down while it goes on, `metrics/*.h5`, and what it came to, `summary.json`. How to look at them:
[reading_results.md](reading_results.md). What may surprise, such as that seconds are means a step, is in
[design.md](design.md#what-differs-from-the-usual-words).

## `metrics/*.h5`

A file for each start of a run. `wash_hpc.storage.metrics.read_metrics(folder)` reads them as one: steps that were done
twice count once. T training records, E evaluations, M members, L layers.

"""

ATTRIBUTES = """
Attributes of each file: `layer_names`, `config` (the whole configuration, as YAML), `hosts`, `num_ranks`,
`num_members`, `num_replicas`, `num_steps`, `first_step` (steps done before this start), `start_seconds` (JSON: what the
start took, by part), `regularization` (what each member drew), `git_commit`, `wash_hpc_version`, `torch_version`,
`python_version`, `slurm_job_id`, `slurm_restart_count`.
"""

SUMMARY = """
## `summary.json`

Written last: a run that has one has finished. `null` is what could not be said, or is no number.

"""

UNITS = {  # by the end of a name
    "images_per_second": "images/s",
    "images_per_second_per_member": "images/s",
    "seconds": "s",
    "bytes_sent": "bytes",
    "bytes_sent_per_member": "bytes",
    "accuracy": "fraction",
    "accuracies": "fraction",
    "accuracy_raw": "fraction",
    "disagreement": "fraction",
    "nll": "nats",
    "loss": "nats",
    "epoch": "epochs",
    "epochs": "epochs",
    "step": "steps",
    "steps": "steps",
    "values_moved": "scalars",
    "num_parameters": "scalars",
    "samples_seen": "images",
    "skipped_files": "files",
}


def main(arguments: list[str] | None = None) -> int:
    """Write both pages, or with --check say which is not as it would be written; the exit status is 1 where one is."""
    parser = argparse.ArgumentParser("make_reference.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a page is stale")
    check = parser.parse_args(arguments).check
    stale = [name for name, text in pages().items() if _read(DOCS / name) != text]
    for name in stale:
        if not check:
            (DOCS / name).write_text(pages()[name], encoding="utf-8")
        print(f"docs/{name}: {'is not what the code says; run python tools/make_reference.py' if check else 'written'}")
    return 1 if check and stale else 0


def pages() -> dict[str, str]:
    """The text of each page, by its name in docs/."""
    return {"configuration.md": configuration_page(), "metrics.md": metrics_page()}


def configuration_page() -> str:
    """A table for each section: key, default, range, meaning; of methods also who knows the key."""
    defaults = Config()
    expected = expected_by_key(defaults)
    sections = [_section(section.name, getattr(defaults, section.name), expected) for section in fields(Config)]
    return "".join([CONFIGURATION, *sections])


def _section(section: str, defaults: Any, expected: dict[str, list[str]]) -> str:
    kind = type(defaults)
    of_methods = kind is MethodConfig
    described = SingleMethodConfig if of_methods else kind
    meanings = comments_of(described) | comments_of(kind)
    hints = get_type_hints(kind)
    parts = [f"\n## {section}\n\n{_with_links(_paragraphs(inspect.getdoc(described) or ''))}\n\n"]
    parts += _table_head("key", "default", "range", *(["methods"] if of_methods else []), "meaning")
    for key in fields(kind):
        name = f"{section}.{key.name}"
        cells = [f"`{name}`", f"`{_value(getattr(defaults, key.name))}`", range_of(name, hints[key.name], expected)]
        methods = [known_by(key.name)] if of_methods else []
        parts.append(_row([*cells, *methods, meanings[key.name]]))
    if of_methods:
        own = [f"`{name}` {kind.every}{' epochs' * kind.in_epochs}" for name, kind in KINDS.items() if kind.every > 1]
        parts.append(f"\n`method.every` of each method's own: {', '.join(own)}, the others 1.\n")
    return "".join(parts)


def expected_by_key(defaults: Config) -> dict[str, list[str]]:
    """What `ranges` expects of each key, in words."""
    found: dict[str, list[str]] = {}
    for key, _, _, expected in rules_of(defaults):
        found.setdefault(key, []).append(expected)
    return found


def range_of(key: str, hint: Any, expected: dict[str, list[str]]) -> str:
    """The values that a key may have: its choices, or its kind and what is expected of it."""
    if get_origin(hint) is Literal:
        said = ["one of " + ", ".join(f"`{choice}`" for choice in get_args(hint))]
    else:
        said = [] if key in expected and hint is not bool else [_kind(hint)]
    most = [f"at most {_number(MOST[key])}"] if key in MOST and "to 2^63" not in "".join(expected.get(key, [])) else []
    return "; ".join([*said, *expected.get(key, []), *most])


def known_by(option: str) -> str:
    """The methods that know an option of the section `method`."""
    if option in {"name", "then"}:
        return "all"
    return ", ".join(name for name, kind in KINDS.items() if option in kind.options)


def comments_of(kind: type) -> dict[str, str]:
    """The comment behind each field of a dataclass in wash_hpc/config.py.

    Raises:
        ValueError: a field has none.
    """
    source = Path(inspect.getfile(config_module))
    comments = _comments(source)
    (body,) = [
        node.body
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    ]
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.lineno not in comments:
                raise ValueError(
                    f"{source.name}, line {node.lineno}: {node.target.id} has no comment that says what it means"
                )
            found[node.target.id] = comments[node.lineno]
    return found


def _comments(file: Path) -> dict[int, str]:
    with file.open("rb") as lines:
        tokens = list(tokenize.tokenize(lines.readline))
    return {
        token.start[0]: token.string.removeprefix("#").strip() for token in tokens if token.type == tokenize.COMMENT
    }


def metrics_page() -> str:
    """A table of the datasets of a metrics file, and one of the keys of a summary."""
    parts = [METRICS, *_table_head("dataset", "shape", "dtype", "unit", "meaning")]
    for datasets, record, rows in ((TRAIN, TrainRecord, "T"), (EVALUATE, EvaluationRecord, "E")):
        meanings = attributes_of(record)
        parts += [_row(_dataset_cells(dataset, rows, meanings[dataset.field])) for dataset in datasets]
    parts += [ATTRIBUTES, SUMMARY, *_table_head("key", "kind", "unit", "meaning")]
    meanings = attributes_of(Summary)
    for key in fields(Summary):
        parts.append(_row([f"`{key.name}`", _summary_kind(str(key.type)), unit_of(key.name), meanings[key.name]]))
    return "".join(parts)


def _summary_kind(annotation: str) -> str:
    """A kind as JSON has it."""
    kind = re.sub(r"^list\[(\w+).*", r"list of \1s", re.sub(r"^dict\[.*", "object", annotation))
    for python, word in (("float", "number"), ("int", "whole number"), ("str", "text"), (" | None", ", or null")):
        kind = kind.replace(python, word)
    return kind


def _dataset_cells(dataset: Dataset, rows: str, meaning: str) -> list[str]:
    axis = {"": "", "member": ", M", "layer": ", L"}[dataset.axis]
    meaning = re.sub(r"^\[[A-Z]\] (float|int64)[,.]?\s*", "", meaning)  # the table has columns for it
    return [f"`{dataset.path}`", f"[{rows}{axis}]", dataset.dtype.__name__, unit_of(dataset.field), meaning]


def unit_of(name: str) -> str:
    """The unit of a metric, by its name; empty where it is a plain number."""
    ends = [end for end in UNITS if name == end or name.endswith(f"_{end}")]
    return UNITS[max(ends, key=len)] if ends else ""


def attributes_of(kind: type) -> dict[str, str]:
    """What the docstring of a dataclass says of each attribute, each on one line."""
    _, _, listed = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in listed.splitlines():
        if start := re.match(r"    (\w+): (.*)", line):
            name, found[start[1]] = start[1], start[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return {name: meaning.replace("None", "`null`") for name, meaning in found.items()}


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _table_head(*titles: str) -> list[str]:
    return [_row(titles), "|---" * len(titles) + "|\n"]


def _row(cells: Sequence[str]) -> str:
    cells = [_with_links(cell.replace("|", "\\|").removesuffix(".")) for cell in cells]
    return "| " + " | ".join(cells).replace("  ", " ") + " |\n"


def _with_links(text: str) -> str:
    """Pages named in comments and docstrings as links."""
    return re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)


def _value(value: Any) -> str:
    """As YAML has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _number(value: int) -> str:
    return f"2^{value.bit_length() - 1}" if value >= 2**14 and value.bit_count() == 1 else f"{value:,}"


def _kind(hint: Any) -> str:
    kinds = list(_kinds(hint))
    return ", or ".join(kinds)


def _kinds(hint: Any) -> Iterator[str]:
    names = {bool: "`true` or `false`", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    for part in get_args(hint) if type(None) in get_args(hint) else (hint,):
        yield names.get(part, "a list")


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
