"""What pages and figures share: self-contained HTML, readable on a phone."""

import base64
import html
import io
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from l2o.files import write_whole

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
img { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d8dee4; text-align: right; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
tr.ours td { font-weight: 600; } .good { color: #1a7f37; } .bad { color: #b42318; } small { color: #59636e; }
pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; font-size: .85rem; }
"""


def number(value: float | None) -> str:
    """Four significant digits; "diverged" for what is not finite."""
    return f"{value:.4g}" if value is not None and math.isfinite(value) else "diverged"


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """Write a figure as a PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    write_whole(path, buffer.getvalue())


def page(title: str, body: str) -> str:
    """A complete HTML document with nothing outside itself."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


def table(header: list[str], rows: list[list[str]], ours: Collection[str] = ()) -> str:
    """An HTML table; cells are HTML already. Rows whose first cell is in `ours` are set off."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr{' class=ours' if row[0] in ours else ''}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def image(path: Path, alt: str) -> str:
    """A PNG embedded in the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def figure_of(width: float = 8.0, height: float = 4.5) -> Any:
    """An empty figure, of a size in inches, that needs no display and leaves pyplot's backend and figures alone."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(count: int, across: int, width: float, height: float, beside: float = 0.0, **shared: bool) -> Any:
    """A figure of panels in rows.

    Args:
      count: how many panels.
      across: how many in a row.
      width, height: of a panel, in inches.
      beside: room on the right of them all, in inches.
      shared: "sharex" and "sharey" as for `Figure.subplots`.

    Returns:
      The figure, and the axes of the panels in order.
    """
    down = -(-count // across)
    figure = figure_of(width * across + beside, height * down)
    places = list(figure.subplots(down, across, squeeze=False, **shared).flat)
    for axes in places[count:]:
        axes.set_axis_off()
    return figure, places[:count]


def colours(name: str) -> Any:
    """Those of a map of distinct ones."""
    import matplotlib

    return matplotlib.colormaps[name].colors  # pyright: ignore[reportAttributeAccessIssue]
