"""A report as data: sections of tables, sentences and figures, shown in a terminal, as a page, and as provenance."""

import html
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments import page
from experiments.progress import aligned, duration
from l2o.files import write_whole

Where = Literal["everywhere", "page and provenance", "page"]


class Shown(NamedTuple):
    """A cell of a table that is more than text.

    Attributes:
      text: what it says.
      aside: what it says beside that, in small print.
      tone: "good" or "bad" for the colour of the text, or neither.
    """

    text: str
    aside: str = ""
    tone: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.aside}".rstrip()

    def html(self) -> str:
        """The cell in a page."""
        text = html.escape(self.text)
        text = f'<span class="{self.tone}">{text}</span>' if self.tone else text
        return f"{text} <small>{html.escape(self.aside)}</small>" if self.aside else text


class Table(NamedTuple):
    """A table of text.

    Attributes:
      header: names of the columns.
      rows: as long as the header each, the name of the row first. A table without rows is not shown.
      title: of a table that is not the only one of its section.
      ours: names of the rows that are set off.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | Shown]]
    title: str = ""
    ours: Collection[str] = ()


class Figure(NamedTuple):
    """A picture of a page.

    Attributes:
      file: its name in the directory of the study, a PNG.
      alt: what is to be seen, in a few words.
      draw: makes it, as `experiments.page.figure_of` does.
      dpi: dots per inch.
    """

    file: str
    alt: str
    draw: Callable[[], Any]
    dpi: int = 100


class Section(NamedTuple):
    """A part of a report, shown in the order of these fields.

    Attributes:
      title: its heading; a section without one goes on with the one before.
      figure: its picture, which the page alone has.
      tables: its tables.
      sentences: what is found, without their full stops.
      notes: how to read the tables.
      where: a terminal shows what is "everywhere"; shipped optimizers carry the tables of what is not for the "page".
    """

    title: str = ""
    figure: Figure | None = None
    tables: Sequence[Table] = ()
    sentences: Sequence[str] = ()
    notes: str = ""
    where: Where = "everywhere"


Report = list[Section]


def as_text(report: Report) -> str:
    """The report for a terminal."""
    lines: list[str] = []
    for section in report:
        tables = [table for table in section.tables if table.rows]
        if section.where != "everywhere" or not (tables or section.sentences or section.notes):
            continue
        lines += [f"{section.title}:"] if section.title else []
        for table in tables:
            lines += [f"{table.title}:"] if table.title else []
            lines += aligned(table.header, [[str(cell) for cell in row] for row in table.rows])
        lines += [*section.sentences, *([section.notes] if section.notes else [])]
    return "\n".join(lines)


def as_tables(report: Report) -> dict[str, list[dict[str, str]]]:
    """The tables for provenance: by title, each a list of rows by the names of its columns."""
    found, title = {}, ""
    for section in report:
        title = section.title or title
        for table in section.tables if section.where != "page" else ():
            if table.rows:
                rows = [[str(cell) for cell in row] for row in table.rows]
                found[table.title or title] = [dict(zip(table.header, row, strict=True)) for row in rows]
    return found


def write(out: Path, results: dict[str, Any], report: Report) -> None:
    """report.html and its figures, from the contents of results.json and the report that was made of them."""
    body = [f"<p>{html.escape(results['study']['description'])}</p>"]
    for section in report:
        body += _html(out, section)
    body.append(f"<p><small>The study took {duration(results['seconds'])}.</small></p>")
    write_whole(out / "report.html", page.page(f"Study {out.name}", "".join(body)))


def _html(out: Path, section: Section) -> list[str]:
    body = [f"<h2>{html.escape(section.title)}</h2>"] if section.title else []
    if section.figure:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # log axes warn of curves that diverged everywhere
            page.save_figure(section.figure.draw(), out / section.figure.file, section.figure.dpi)
        body.append(page.image(out / section.figure.file, section.figure.alt))
    for table in section.tables:
        if table.rows:
            body += [f"<p>{html.escape(table.title)}:</p>"] if table.title else []
            rows = [[cell.html() if isinstance(cell, Shown) else html.escape(cell) for cell in r] for r in table.rows]
            body.append(page.table(list(table.header), rows, table.ours))
    body += [f"<p>{html.escape(line)}{'' if line.endswith('.') else '.'}</p>" for line in section.sentences]
    return [*body, *([f"<p><small>{html.escape(section.notes)}</small></p>"] if section.notes else [])]


def bracketed(values: Sequence[float | None] | None, form: str = ".3f", missing: str = "failed") -> str:
    """A value with its interval, "1.000 [0.900, 1.100]"; a word where one of them is missing.

    >>> bracketed([1.0, 0.9, 1.1], "+.2f")
    '+1.00 [+0.90, +1.10]'
    """
    if values is None or None in values:
        return missing
    value, low, high = (format(v, form) for v in values)
    return f"{value} [{low}, {high}]"


def plus_minus(values: Sequence[float | None], form: str = ".3g", missing: str = "failed") -> str:
    """A mean with half the width of its interval, "1 ± 0.1"; a word where one of them is missing or infinite."""
    mean, low, high = (math.inf if value is None else value for value in values)
    return f"{mean:{form}} ± {(high - low) / 2:.2g}" if math.isfinite(mean) and math.isfinite(high - low) else missing


def optional(value: float | None, form: str = ".3g", missing: str = "failed") -> str:
    """A number; a word where it is missing."""
    return missing if value is None else format(value, form)


def with_unit(seconds: float) -> str:
    """Seconds in two digits with a unit.

    >>> with_unit(0.0123)
    '12 ms'
    """
    unit, factor = ("s", 1.0) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
    return f"{float(f'{seconds * factor:.2g}'):g} {unit}"


def verdict(pairs: list[dict[str, Any]]) -> str:
    """Part of a sentence on the paired comparisons of one optimizer with others: "below adam; above sgd".

    Where the interval of the mean difference leaves it open, often because of a single run that went astray, the
    share of runs won stands beside the name.
    """
    below = [c["against"] for c in pairs if c["high"] is not None and c["high"] < 0]
    above = [c["against"] for c in pairs if c["low"] is not None and c["low"] > 0]
    rest = [f"{c['against']} ({_undecided_by(c)})" for c in pairs if c["against"] not in below + above]
    named = (("below", below), ("above", above), ("undecided against", rest))
    return "; ".join(f"{word} {', '.join(names)}" for word, names in named if names)


def _undecided_by(comparison: dict[str, Any]) -> str:
    won = f"{comparison['win_rate']:.0%} of runs won"
    return f"a run diverged, {won}" if comparison["difference"] is None else won
