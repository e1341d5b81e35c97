"""The report of a study of surrogates, from results.json alone."""

from typing import Any

from experiments.page import panels
from experiments.study.report import Figure, Report, Section, Table, bracketed
from experiments.study.surrogates.results import LEVELS


def report(results: dict[str, Any]) -> Report:
    """Densities, divergences where the prior is known, and calibration."""
    study, rows = results["study"], results["rows"]
    told, first = [str(count) for count in study["told"]], results["first"]
    without = {name: {c: row for c, row in of_prior.items() if c != first} for name, of_prior in rows.items()}
    sections = [
        Section(
            "Log density of values that were not told",
            figure=Figure("density.png", "log density by points told", lambda: _figure(results, "density")),
            tables=[_table(name, of_prior, told, "density", results["learned"]) for name, of_prior in rows.items()],
            notes="In nats a point, for values in units of their standard deviation on each function; higher is better."
            " In brackets 95 % intervals over functions.",
        ),
        Section(
            f"Log density above that of {first}",
            tables=[_table(name, others, told, "difference", results["learned"]) for name, others in without.items()],
            notes="Of the same functions and points.",
        ),
    ]
    known = {name: of_prior for name, of_prior in rows.items() if "divergence" in next(iter(of_prior.values()))}
    if known:
        sections.append(
            Section(
                "Divergence from the exact posterior",
                figure=Figure("divergence.png", "divergence by points told", lambda: _figure(results, "divergence")),
                tables=[_table(name, row, told, "divergence", results["learned"]) for name, row in known.items()],
                notes="KL(exact || surrogate) in nats a point: what is lost by believing the surrogate.",
            )
        )
    calibration = [
        [column, *(f"{sum(e) / len(e):.1f} %" for e in [row["error"]]), *_covered(row)]
        for column in results["columns"] for row in [_pooled([of_prior[column] for of_prior in rows.values()])]
    ]  # fmt: skip
    header = ["surrogate", "error", *(f"in {100 * level:g} %" for level in LEVELS)]
    sections.append(
        Section(
            "Calibration",
            tables=[Table(header, calibration, ours=results["learned"])],
            notes="error: mean distance of the share of values below a predicted quantile from what it should be."
            " in 95 %: share of values in the central interval of that probability."
            " Over all priors and numbers of points told.",
        )
    )
    return sections


def _table(title: str, of_prior: dict[str, Any], told: list[str], measure: str, ours: list[str]) -> Table:
    found = [[column, *(bracketed(values, ".3f") for values in row[measure])] for column, row in of_prior.items()]
    return Table(["surrogate", *(f"after {count}" for count in told)], found, title, ours)


def _pooled(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "error": [error for row in rows for error in row["error"]],
        "coverage": [levels for row in rows for levels in row["coverage"]],
    }


def _covered(row: dict[str, Any]) -> list[str]:
    return [f"{100 * sum(column) / len(column):.1f} %" for column in zip(*row["coverage"], strict=True)]


def _figure(results: dict[str, Any], measure: str) -> Any:
    rows = {name: of_prior for name, of_prior in results["rows"].items() if measure in next(iter(of_prior.values()))}
    figure, places = panels(len(rows), 3, 4, 2.8)
    for axes, (name, of_prior) in zip(places, rows.items(), strict=True):
        for column, row in of_prior.items():
            middle, low, high = zip(*row[measure], strict=True)
            axes.plot(results["study"]["told"], middle, marker="o", ms=3, label=column)
            axes.fill_between(results["study"]["told"], low, high, alpha=0.2)
        axes.set(title=name, xscale="log", xlabel="points told")
        if measure == "divergence":
            axes.set(yscale="log")
    figure.axes[0].legend(fontsize=7)
    return figure
