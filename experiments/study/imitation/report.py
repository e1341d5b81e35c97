"""The report of a study of imitation: best values, who the runs are taken for, likelihoods, and a sentence on each."""

from functools import partial
from typing import Any

import numpy as np

from experiments.page import figure_of, panels
from experiments.study.report import Figure, Report, Section, Table, bracketed, optional

ACROSS = 4  # panels of the figure of best values
LOWEST = 3e-3  # where its axes end


def report(results: dict[str, Any]) -> Report:
    """The sections of the report."""
    said, sections = explanations(results), []
    for name in results["learned"]:
        curves = Figure(
            f"curves-{name}.png", "best value by trial, mean and quartiles", partial(best_curves, results, name)
        )
        tables = Figure(f"tables-{name}.png", "the tables below as colours", partial(pictures, results, name), dpi=90)
        best = Section(f"{name}: best values", curves, [bests(results, name)], notes=said["Best values"], where="page")
        sections += [
            Section(name, tables=[overall(results, name)], sentences=sentences(results, name), notes=notes()),
            best, Section(f"{name}: behaviour and likelihood", tables, where="page"),
        ]  # fmt: skip
        teachers = list(results["models"][name]["teachers"])
        for title, (corner, matrix, form) in matrices(results, name).items():
            rows = [[t, *map(form.format, row)] for t, row in zip(teachers, matrix, strict=True)]
            sections.append(Section(title, tables=[Table([corner, *teachers], rows)], notes=said[title], where="page"))
    return sections


def overall(results: dict[str, Any], name: str) -> Table:
    """The main table of a model: a row for each teacher that it is prompted as."""
    step, found, rows = last_step(results), results["models"][name], []
    for teacher, row in found["teachers"].items():
        best = row["best"][step]
        rows.append(
            [
                teacher, f"{best['teacher'][0]:.3f}", f"{best['model'][0]:.3f}", bracketed(best["difference"], "+.3f"),
                bracketed(row["recognised"], ".0%"), f"{found['judge']['taken_for'][teacher][teacher]:.0%}",
                nearest(row), f"{row['log_prob'][teacher]:.2f}", optional(row["own_log_prob"], ".2f", "-"),
                likeliest(row),
            ]
        )  # fmt: skip
    header = [
        "prompt", f"best at {step}: teacher", "model", "difference", "recognised: model", "recognised: teacher",
        "nearest", "log-probability: model", "log-probability: teacher", "likeliest prompt",
    ]  # fmt: skip
    return Table(header, rows)


def nearest(row: dict[str, Any]) -> str:
    """The teacher whose behaviour is most like that of the imitation."""
    return min(row["distance"], key=row["distance"].__getitem__)


def likeliest(row: dict[str, Any]) -> str:
    """The prompt under which the teacher's own runs are most likely."""
    return max(row["log_prob"], key=row["log_prob"].__getitem__)


def sentences(results: dict[str, Any], name: str) -> list[str]:
    """What is found about a model."""
    step, found = last_step(results), results["models"][name]
    rows = found["teachers"]

    def those(condition) -> str:
        some = [teacher for teacher, row in rows.items() if condition(*row["best"][step]["difference"])]
        return ", ".join(some) or "none"

    def count(which) -> str:
        return f"{sum(which(row) == teacher for teacher, row in rows.items())} of {len(rows)}"

    return [
        f"{name}: {found['recognised']:.0%} of its runs are taken for those of the teacher that its prompt names, and"
        f" {found['judge']['accuracy']:.0%} of the teachers' own; by chance {1 / len(rows):.0%} would be",
        f"{name}: for {count(nearest)} prompts the teacher with the nearest mean behaviour is the one that is named",
        f"{name}: the runs of {count(likeliest)} teachers are likeliest under the prompt that names them",
        f"{name}: its best value after {step} trials is worse than the teacher's when prompted as"
        f" {those(lambda _, low, high: low > 0)}; better as {those(lambda _, low, high: high < 0)};"
        f" the same within the interval as {those(lambda _, low, high: low <= 0 <= high)}",
    ]


def bests(results: dict[str, Any], name: str) -> Table:
    """Best values of teacher and model after each reported number of trials."""
    rows = []
    for teacher, row in results["models"][name]["teachers"].items():
        for step, best in row["best"].items():
            pair = ("{:.3f} ± {:.3f}".format(*best[who]) for who in ("teacher", "model"))
            rows.append([teacher, step, *pair, bracketed(best["difference"], "+.3f")])
    return Table(["prompt", "trials", "teacher", "model", "difference"], rows)


def matrices(results: dict[str, Any], name: str) -> dict[str, tuple[str, np.ndarray, str]]:
    """For each table of teachers by teachers: what its rows are, its numbers, and how one is written."""
    found = results["models"][name]
    rows, teachers = found["teachers"], list(found["teachers"])

    def matrix(of: dict[str, dict[str, float]]) -> np.ndarray:
        return np.array([[of[row][column] for column in teachers] for row in teachers])

    return {
        "What the model's runs are taken for": (
            "prompt", matrix({t: row["taken_for"] for t, row in rows.items()}), "{:.0%}",
        ),
        "What the teachers' runs are taken for": ("teacher", matrix(found["judge"]["taken_for"]), "{:.0%}"),
        "Distance of the model from the teachers": (
            "prompt", matrix({t: row["distance"] for t, row in rows.items()}), "{:.2f}",
        ),
        "Distance between the teachers": (
            "teacher", matrix({t: {t: 0.0} | row["distance_between_teachers"] for t, row in rows.items()}), "{:.2f}",
        ),
        "Log-probability of the teachers' runs by prompt": (
            "runs of", matrix({t: row["log_prob"] for t, row in rows.items()}), "{:.2f}",
        ),
    }  # fmt: skip


def explanations(results: dict[str, Any]) -> dict[str, str]:
    """A sentence or two on each table, by its title."""
    study = results["study"]
    runs = len(results["cells"]) * study["instances"]
    return {
        "Best values": (
            f"The lowest value so far, on {runs} tasks of functions that no example comes from: 0 is the lowest value"
            f" of any run on a task, 1 the median value of {study['relative_to']} there. Mean and standard deviation"
            " over tasks; the difference is model minus teacher on the same tasks, with a 95 % interval from a"
            " bootstrap over tasks."
        ),
        "What the model's runs are taken for": (
            "Rows are prompts; columns are what a random forest takes the runs for, which learned from"
            f" {study['examples']} runs of every teacher on each of the other functions. It sees no positions, only"
            " how each trial differs from those before it, in the early, middle and late part of a run: the share of"
            " coordinates that are those of the best or the previous point, distances to both and to the nearest point,"
            " repetitions, values of coordinates that are known already, and the rank of the value."
        ),
        "What the teachers' runs are taken for": (
            "The same for the teachers' own runs on the same tasks: the diagonal is how well the judge can tell."
        ),
        "Distance of the model from the teachers": (
            "Between means of what the judge sees, root mean square in standard deviations of the examples; an"
            " imitation is nearest to its own teacher where the least number of a row is on the diagonal."
        ),
        "Distance between the teachers": "The same between the teachers' own runs, for comparison.",
        "Log-probability of the teachers' runs by prompt": (
            "Rows are the teachers' own runs, columns the prompts under which the model reads them: mean"
            " log-probability of a trial's parameters given all trials before it, in nats, with values scaled by the"
            " range of the whole run. In each row the diagonal should be the largest, and cannot on average exceed the"
            " teacher's own log-probability, which the main table has where it is known."
        ),
    }


def notes() -> str:
    """How to read the main table."""
    return (
        "Recognised: the share of runs that a classifier takes for those of the teacher that the prompt names, beside"
        " that of the teacher's own runs. Nearest: the teacher with the nearest mean behaviour. Log-probability: of a"
        " trial's parameters in the teacher's own runs, in nats, under the model and, where it is known, under the"
        " teacher itself, which is the most that can be reached. Likeliest prompt: under which these runs are most"
        " probable."
    )


def best_curves(results: dict[str, Any], name: str) -> Any:
    """The figure of best values by trial, a panel for each teacher."""
    found = results["models"][name]["teachers"]
    across = min(ACROSS, len(found))
    figure, places = panels(len(found), across, 3.2, 2.8, sharex=True, sharey=True)
    for axes, (teacher, row) in zip(places, found.items(), strict=True):
        for who, colour in (("teacher", "tab:grey"), ("model", "tab:blue")):
            mean, low, high = (np.maximum(row["curves"][who][k], LOWEST) for k in ("mean", "low", "high"))
            at = np.arange(1, len(mean) + 1)
            axes.plot(at, mean, color=colour, lw=1.8, label=who)
            axes.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
        axes.set(title=teacher)
    # the first trials may be far above the median of random ones
    places[0].set(yscale="log", ylim=(LOWEST, 3), ylabel="best value so far")
    places[0].legend(fontsize=9)
    figure.supxlabel("trials", fontsize=10)
    return figure


def pictures(results: dict[str, Any], name: str) -> Any:
    """The figure of the tables as colours, dark where the diagonal should be.

    Log-probabilities are shown below the largest of their row.
    """
    found = matrices(results, name)
    teachers = list(results["models"][name]["teachers"])
    figure = figure_of(15, 9.5)
    places = list(figure.subplots(2, 3).flat)
    for axes, (title, (corner, matrix, form)) in zip(places, found.items(), strict=False):
        likelihood = corner == "runs of"
        shade = np.clip(matrix - matrix.max(1, keepdims=True), -5, 0) if likelihood else matrix
        axes.imshow(shade, cmap="Blues_r" if title.startswith("Distance") else "Blues")
        middle = (shade.min() + shade.max()) / 2
        for (i, j), value in np.ndenumerate(matrix):
            light = (shade[i, j] > middle) != title.startswith("Distance")
            axes.text(j, i, form.format(value), ha="center", va="center", size=7, color="white" if light else "black")
        axes.set_xticks(range(len(teachers)), teachers, rotation=90, fontsize=8)
        axes.set_yticks(range(len(teachers)), teachers, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_ylabel(corner, fontsize=9)
    for axes in places[len(found) :]:
        axes.set_axis_off()
    return figure


def last_step(results: dict[str, Any]) -> str:
    """The last trial, as a key."""
    return str(results["study"]["trials"])
