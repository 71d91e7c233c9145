"""The report as one HTML page that opens offline. Owns the page's HTML; `page.css` is its style, `page.js` its script.

The page loads nothing: Plotly is embedded once, and the page's own policy forbids every connection. Whatever comes
from a run (its name, its configuration, its layers' names) is escaped.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path

from wash_hpc.commands import train_command
from wash_hpc.errors import MissingDependencyError
from wash_hpc.report.alarms import alarms
from wash_hpc.report.columns import COLUMNS, caption, notes_on_members
from wash_hpc.report.figure import Figure, Key
from wash_hpc.report.figures import figures
from wash_hpc.report.plotly_figures import figures_json
from wash_hpc.report.runs import Run
from wash_hpc.storage.files import write_atomically

_POLICY = "default-src 'none'; script-src {}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
Drawn = tuple[list[Figure], list[str]]
"""What `figures` gives."""

_DASHES = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3"}
_MARKERS = {
    "": "",
    "circle": '<circle cx="16" cy="6" r="3.5" fill="{0}"/>',
    "diamond-open": '<path d="M16 1.5 20.5 6 16 10.5 11.5 6Z" fill="none" stroke="{0}" stroke-width="1.6"/>',
    "x-thin-open": '<path d="M12.5 2.5l7 7m0-7l-7 7" stroke="{0}" stroke-width="1.8"/>',
}
_MOST_ALARMS = 60
_ABOUT_RUN = ("git_commit", "wash_hpc_version", "torch_version", "python_version", "hosts", "num_ranks")


def write_page(file: Path, runs: Sequence[Run], drawn: Drawn | None = None) -> None:
    """Write the report of some finished runs.

    Args:
        file: the HTML file; its folder exists.
        runs: at least one, with their metrics; one without has no curves, and the page says so.
        drawn: what `figures` makes of them, where that is known already.

    Raises:
        MissingDependencyError: Plotly is not installed.
        RunFolderError: the file cannot be written.
    """
    write_atomically(file, page_text(runs, drawn))


def page_text(runs: Sequence[Run], drawn: Drawn | None = None) -> str:
    """The HTML of the report; raises as `write_page`."""
    scripts = [_plotly_script(), _asset("page.js")]
    shown, problems = figures(runs) if drawn is None else drawn
    title = escape(f"WASH report: {runs[0].label}" if len(runs) == 1 else f"WASH report: {len(runs)} runs")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY.format(" ".join(map(_allowed, scripts)))}">
<title>{title}</title>
<style>{_asset("page.css")}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{_contents(shown)}
</header>
<main>
{_problems(runs, problems)}
{_alarms(runs)}
<section>
<h2 id="runs">Runs</h2>
<div class="wide" tabindex="0" role="region" aria-labelledby="runs" aria-describedby="columns">
{_table(runs)}
</div>
{_about_table(runs)}
</section>
<p>Of long curves the lowest and the highest record of each stretch are shown, so that no spike is lost. Names under a
figure hide and show what they name, in all figures. Drag in a figure to enlarge; with the keyboard, Tab reaches a
figure and the arrow keys go along its first curve.</p>
{"".join(_figure_section(figure) for figure in shown)}
<section>
<h2 id="configurations">Configurations, and how to repeat the runs</h2>
{"".join(_configuration(run) for run in runs)}
</section>
<p id="said" class="heard" aria-live="polite"></p>
</main>
<script type="application/json" id="figures">{figures_json(shown)}</script>
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def _allowed(script: str) -> str:
    """What the policy says of one script that may run: no other, whoever has written it into the page, does."""
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    """A file of this package."""
    return (files("wash_hpc.report") / name).read_text(encoding="utf-8")


def _plotly_script() -> str:
    """The JavaScript of Plotly."""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise MissingDependencyError("plotly", "pip install 'wash_hpc[report]'") from error
    return str(get_plotlyjs())


def _contents(drawn: Sequence[Figure]) -> str:
    """Links to the parts of the page."""
    parts = [
        ("runs", "Runs"),
        *((f"{one.key}-title", one.title) for one in drawn),
        ("configurations", "Configurations"),
    ]
    items = "".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title in parts)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def _problems(runs: Sequence[Run], problems: Sequence[str]) -> str:
    """What could not be read, in words."""
    without = ", ".join(run.label for run in runs if run.metrics is None)
    sentences = [f"No curves, because the metrics cannot be read: {without}."] if without else []
    return "".join(f"<p>{escape(sentence)}</p>\n" for sentence in [*sentences, *problems])


def _alarms(runs: Sequence[Run]) -> str:
    """What is wrong with runs, and what to try, in words."""
    sentences = [
        (run.label, str(alarm))
        for run in runs
        if run.metrics is not None
        for alarm in alarms(run.metrics, run.summary, run.sections)
    ]
    if not sentences:
        return ""
    items = "".join(f"<li><b>{escape(label)}</b>: {escape(text)}</li>\n" for label, text in sentences[:_MOST_ALARMS])
    rest = len(sentences) - _MOST_ALARMS
    more = f"<p>And {rest} more: look at fewer runs to see them.</p>\n" if rest > 0 else ""
    return f'<section class="alarms">\n<h2 id="alarms">Alarms</h2>\n<ul>\n{items}</ul>\n{more}</section>'


def _figure_section(figure: Figure) -> str:
    title, about = f"{figure.key}-title", f"{figure.key}-about"
    return f"""<section>
<h2 id="{title}">{escape(figure.title)}</h2>
<figure aria-labelledby="{title}">
<figcaption id="{about}">{escape(figure.about)}</figcaption>
<div class="plot" id="{figure.key}" style="height:{figure.height}px" tabindex="0" role="group" \
aria-roledescription="figure" aria-labelledby="{title}" aria-describedby="{about}"></div>
{_legend(figure)}
{_numbers(figure)}
</figure>
</section>
"""


def _legend(figure: Figure) -> str:
    """A box to tick for each thing that can be hidden, with a sample of its line."""
    if not figure.legend:
        return ""
    whole = not isinstance(figure.content, list)
    boxes = "".join(
        f'<label><input type="checkbox" value="{key.id}" checked autocomplete="off">{_sample(key, whole)}'
        f'<span title="{escape(key.label)}">{escape(key.label)}</span></label>'
        for key in figure.legend
    )
    legend = f"<legend>Shown in: {escape(figure.title)}</legend>"
    return f'<fieldset class="legend">{legend}{boxes}<button type="button" class="reset">Show all</button></fieldset>'


def _sample(key: Key, whole: bool) -> str:
    colour = key.colour or "currentColor"
    if whole:
        drawing = f'<rect width="32" height="12" fill="{colour}"/>'
    else:
        dashes = f' stroke-dasharray="{_DASHES[key.dash]}"' if _DASHES[key.dash] else ""
        line = f'<path d="M0 6H32" stroke="{colour}" stroke-width="2.5"{dashes}/>'
        drawing = line + _MARKERS[key.marker].format(colour)
    return f'<svg width="32" height="12" aria-hidden="true">{drawing}</svg>'


def _numbers(figure: Figure) -> str:
    """The figure as a table, for those who cannot see it."""
    heads, rows, left_out = figure.table()
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row" class="left"><span class="name">{escape(row[0])}</span></th>'
        + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        + "</tr>\n"
        for row in rows
    )
    rest = f"<p>And {left_out} more.</p>" if left_out else ""
    return (
        f'<details class="numbers"><summary>Numbers of this figure</summary><div class="wide"><table><thead><tr>{head}'
        f"</tr></thead>\n<tbody>{body}</tbody></table></div>{rest}</details>"
    )


def _table(runs: Sequence[Run]) -> str:
    head = "".join(f'<th scope="col" class="{column.align}">{escape(column.title)}</th>' for column in COLUMNS)
    rows = []
    for run in runs:
        name = f'<th scope="row" class="left"><span class="name">{escape(run.label)}</span></th>'
        cells = (f'<td class="{column.align}">{escape(column.cell(run.shown))}</td>' for column in COLUMNS[1:])
        rows.append(f"<tr>{name}{''.join(cells)}</tr>\n")
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody>\n</table>"


def _about_table(runs: Sequence[Run]) -> str:
    """What its columns mean; not its caption, which would be as wide as the table and cut in a narrow window."""
    summaries = [run.shown for run in runs]
    about = caption(summaries, [column.title for column in COLUMNS])
    return f'<p id="columns">{escape(" ".join([about, *notes_on_members(summaries)]))}</p>'


def _configuration(run: Run) -> str:
    """The command that repeats a run, what it ran on, and its whole configuration."""
    attributes = run.metrics.attributes if run.metrics is not None else {}
    about = "; ".join(f"{name.replace('_', ' ')} {attributes[name]}" for name in _ABOUT_RUN if attributes.get(name))
    return (
        f"<details><summary>{escape(run.label)} ({escape(str(run.folder))})</summary>\n"
        f"<p>To repeat it{escape(f' ({about})' if about else '')}:</p>\n"
        f"<pre>{escape(repeat_command(run))}</pre>\n<pre>{escape(run.config)}</pre></details>\n"
    )


def repeat_command(run: Run) -> str:
    """What one types in a shell to train a run once more, beside the first."""
    ranks = run.summary.num_members * run.summary.num_replicas
    started_by = run.metrics.attributes.get("program") if run.metrics is not None else None
    return train_command(run.folder / "config.yaml", ranks, started_by, f"run.name={run.summary.name}-again")
