"""The report as one HTML page that opens offline. Owns the page's HTML and style; the figures are `curves`'.

The page loads nothing: Plotly is embedded once, and the page's own policy forbids every connection. Whatever comes
from a run (its name, its configuration) is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from wash_hpc.errors import MissingDependencyError
from wash_hpc.report.curves import Figure, figures
from wash_hpc.report.runs import Run
from wash_hpc.report.table import COLUMNS, caption, left_out_lines
from wash_hpc.storage.files import write_atomically

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)

# Plotly writes the colour of a text on the element itself, hence !important.
_STYLE = """
:root { --ink: #1b1b1b; --paper: #ffffff; --line: #c9c9c9; --link: #00568a; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181b; --line: #4a4d52; --link: #7cc4f0; }
}
@media print { :root { --ink: #000; --paper: #fff; --line: #999; } details > pre { white-space: pre-wrap; } }
body { margin: 0 auto; max-width: 75rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
a { color: var(--link); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .3rem 0; caption-side: bottom; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th.left, td.left { text-align: left; }
td { white-space: nowrap; }
th[scope=row] { min-width: 8rem; overflow-wrap: anywhere; }
figure { margin: 0 0 2rem; break-inside: avoid; }
.plot { height: 26rem; }
pre { overflow-x: auto; padding: .7rem; border: 1px solid var(--line); }
.xtick text, .ytick text, .xtitle, .ytitle, .legendtext { fill: var(--ink) !important; }
"""
_LAYOUT: dict[str, object] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
    "legend": {"orientation": "h", "y": -0.2},
    "hovermode": "closest",
    "showlegend": True,
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#808080", "activecolor": "#0072B2"},
}
_AXIS: dict[str, object] = {
    "gridcolor": "rgba(128,128,128,.3)",
    "zerolinecolor": "rgba(128,128,128,.5)",
    "automargin": True,
}
_DRAW = """
for (const figure of JSON.parse(document.getElementById("figures").textContent))
  Plotly.newPlot(figure.key, figure.data, figure.layout, {
    responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]});
"""


def write_page(file: Path, runs: Sequence[Run]) -> None:
    """Write the report of some finished runs.

    Args:
        file: the HTML file; its folder exists.
        runs: at least one, with their metrics; one without has no curves, and the page says so.

    Raises:
        MissingDependencyError: Plotly is not installed.
        RunFolderError: the file cannot be written.
    """
    write_atomically(file, page_text(runs))


def page_text(runs: Sequence[Run]) -> str:
    """The HTML of the report; raises as `write_page`."""
    plotly_script = _plotly_script()
    drawn = figures(runs)
    title = escape(f"WASH report: {runs[0].label}" if len(runs) == 1 else f"WASH report: {len(runs)} runs")
    without = ", ".join(escape(run.label) for run in runs if run.metrics is None)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<h2 id="runs">Runs</h2>
<div class="wide" tabindex="0" role="region" aria-labelledby="runs">
{_table(runs)}
</div>
{f"<p>No curves, because the metrics cannot be read: {without}.</p>" if without else ""}
<p>Long curves show some of their records, evenly spread; the first and the last are among them.</p>
{"".join(_figure_place(figure) for figure in drawn)}
<h2>Configurations</h2>
{"".join(_configuration(run) for run in runs)}
</main>
<script type="application/json" id="figures">{_figures_json(drawn)}</script>
<script>{plotly_script}</script>
<script>{_DRAW}</script>
</body>
</html>
"""


def _plotly_script() -> str:
    """The JavaScript of Plotly."""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise MissingDependencyError("plotly", "pip install 'wash_hpc[report]'") from error
    return str(get_plotlyjs())


def _figures_json(drawn: Sequence[Figure]) -> str:
    """The figures as JSON that cannot end the script element it stands in."""
    content = []
    for figure in drawn:
        axes = {name: {**_AXIS, **axis} for name, axis in figure.axes.items()}
        layout: dict[str, object] = {**_LAYOUT, **axes}
        content.append({"key": figure.key, "data": figure.data, "layout": layout})
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _figure_place(figure: Figure) -> str:
    return f"""<h2 id="{figure.key}-title">{escape(figure.title)}</h2>
<figure aria-labelledby="{figure.key}-title">
<figcaption>{escape(figure.about)}</figcaption>
<div class="plot" id="{figure.key}"></div>
</figure>
"""


def _table(runs: Sequence[Run]) -> str:
    head = "".join(f'<th scope="col" class="{column.align}">{escape(column.title)}</th>' for column in COLUMNS)
    rows = []
    for run in runs:
        name = f'<th scope="row" class="left">{escape(run.label)}</th>'
        cells = (f'<td class="{column.align}">{escape(column.cell(run.summary))}</td>' for column in COLUMNS[1:])
        rows.append(f"<tr>{name}{''.join(cells)}</tr>\n")
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody>"
    summaries = [run.summary for run in runs]
    about = escape(" ".join([caption(summaries), *left_out_lines(summaries)]))
    return f"<table>\n<caption>{about}</caption>\n{body}\n</table>"


def _configuration(run: Run) -> str:
    summary = f"{escape(run.label)} ({escape(str(run.folder))})"
    return f"<details><summary>{summary}</summary><pre>{escape(run.config)}</pre></details>\n"
