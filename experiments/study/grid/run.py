"""A study over a grid of settings: activations, architectures and horizons, one factor at a time and at the corners.

Every cell is a small training problem. Each tuned column is run with three learning rates: the one that is best on the
centre cell (the family a person would tune on), the one that is best over the whole grid, and the one that is best on
the cell itself (the oracle). Rates are chosen on data, starts and minibatches that nothing reported comes from.
"""

import itertools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import page as report
from experiments.progress import Say, pieces
from experiments.study import statistics
from experiments.study.base import Grid
from experiments.study.curves.run import Column, columns, label, rates_of
from experiments.study.grid.time_to_result import TAIL, profile_scores, steps_to
from experiments.study.pieces import arrays_of, begin, save
from l2o.core import BaselineConfig
from l2o.errors import UserError
from l2o.files import write_whole
from l2o.registry import kinds, parse
from meta.evaluate import evaluate
from tasks.family import FamilyConfig

WAYS = ("centre", "grid", "cell")
HELDOUT_FLOOR = 1e-4


class Cell(NamedTuple):
    """A setting; its name is a file name. No dataset stands for the centre's."""

    activation: str
    architecture: str
    horizon: int
    dataset: str = ""

    @property
    def name(self) -> str:
        return "-".join([*([self.dataset] if self.dataset else []), *map(str, self[:3])])


def cells(grid: Grid, say: Say = print) -> list[Cell]:
    """The settings that are run, the centre first. Those whose data are not on this machine are left out, and said."""
    centre = Cell(grid.centre.activation, grid.centre.architecture, grid.centre.horizon)
    others = [name for name in grid.datasets if name != grid.centre.dataset and _present(grid, name, say)]
    if grid.cross:
        every = itertools.product(grid.activations, grid.architectures, grid.horizons, ["", *others])
        found = [Cell(*c) for c in every]
    else:
        found = [centre._replace(activation=a) for a in grid.activations]
        found += [centre._replace(architecture=a) for a in grid.architectures]
        found += [centre._replace(horizon=h) for h in grid.horizons]
        found += [centre._replace(dataset=d) for d in others]
        corners = grid.corners
        found += [Cell(*c) for c in itertools.product(corners.activations, corners.architectures, corners.horizons)]
    return list(dict.fromkeys([centre, *found]))


def _present(grid: Grid, name: str, say: Say) -> bool:
    try:
        grid.datasets[name].load("test")
    except UserError as error:
        say(f"left out the cells on {name}: {error}")
        return False
    return True


def family_of(grid: Grid, cell: Cell) -> FamilyConfig:
    """The task family of a cell."""
    fields = {"dataset": grid.datasets[cell.dataset or grid.centre.dataset], "activation": cell.activation}
    return parse(FamilyConfig, {**grid.task, **grid.architectures[cell.architecture], **fields})


def final(values: np.ndarray) -> np.ndarray:
    """Final loss of each run [runs, horizon + 1] -> [runs]: the mean over the last twentieth; inf if it diverged."""
    tail = values[:, -max(1, values.shape[1] // TAIL) :].astype(np.float64)
    return np.where(np.isfinite(values).all(1), np.nan_to_num(tail, posinf=0, neginf=0).mean(1), np.inf)


def log_loss(losses: np.ndarray, floor: float) -> np.ndarray:
    """Natural logarithm of losses, clipped to [floor, 1e3], so that a run that diverged counts as 1,000."""
    return np.log(np.clip(np.nan_to_num(losses, nan=np.inf), floor, 1e3))


class Runner:
    """Runs of one column on one cell: compiled once for all learning rates and both splits."""

    def __init__(self, grid: Grid, cell: Cell, column: Column) -> None:
        self.grid, self.cell, self.column = grid, cell, column
        config = family_of(grid, cell)
        self.families = {split: config.build(split) for split in ("train", "test")}
        self.programs: dict[Any, Any] = {}

    def __call__(self, argument: Any, split: str, runs: int) -> tuple[dict[str, np.ndarray], float]:
        """Values and measures of each run, and seconds per step of one run, `tune.runs` runs at a time."""
        key = jax.random.fold_in(jax.random.key(self.grid.seed), split == "test")
        argument = jnp.asarray(argument) if isinstance(argument, float) else argument
        together, family = self.grid.tune.runs, self.families[split]
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(family))
        if shapes not in self.programs:
            lowered = evaluate.lower(
                self.column.make, argument, family, key, tasks=together, horizon=self.cell.horizon
            )  # fmt: skip
            self.programs[shapes] = lowered.compile()
        start = time.perf_counter()
        keys = [jax.random.fold_in(key, number) for number in range(-(-runs // together))]
        found = jax.block_until_ready([self.programs[shapes](argument, family, k) for k in keys])
        seconds = (time.perf_counter() - start) / (len(found) * together) / self.cell.horizon
        names = list(found[0])
        return {
            name: np.concatenate([np.asarray(f[name], np.float32) for f in found])[:runs] for name in names
        }, seconds


def run(grid: Grid, out: Path, say: Say = print, resume: bool = False) -> dict[str, Any]:
    """Run a grid into a directory: cells/*.npz, results.json, heatmap.png, curves.png, profile.png, report.html.

    Raises:
      UserError: the directory is in use or holds another study, or an optimizer does not exist.
    """
    found, settings = columns(grid), cells(grid, say)
    if grid.reference not in [column.name for column in found if column.tuned]:
        raise UserError(f"reference: {grid.reference!r} is none of the tuned optimizers of the grid")
    for name, members in grid.groups.items():
        for member in members:
            if member in kinds(BaselineConfig):
                raise UserError(f"groups.{name}: {member!r} is a baseline, expected run directories")
    folder = begin(grid, out, resume)
    say(f"{len(settings)} cells, {len(found)} optimizers, {grid.runs} runs each")
    tuned, seconds = [column for column in found if column.tuned], 0.0
    scores: dict[str, list[np.ndarray]] = {column.name: [] for column in tuned}
    rows: dict[str, list[dict[str, Any]]] = {}
    with pieces(len(settings) * (len(tuned) + len(found)), say) as done:
        for cell, column in itertools.product(settings, tuned):
            score, took = _tune(grid, cell, column, folder / f"{cell.name}-{column.name}-tune.npz")
            scores[column.name].append(score)
            seconds += took
            done(f"tuned {column.name} on {cell.name}")
        rates = {name: choose(np.stack(found), grid) for name, found in scores.items()}
        for (index, cell), column in itertools.product(enumerate(settings), found):
            wanted = [float(r) for r in rates[column.name][:, index]] if column.tuned else [column.argument]
            runs, took = _test(grid, cell, column, folder / f"{cell.name}-{column.name}.npz", wanted)
            for way, one in zip(WAYS if column.tuned else ("",), runs, strict=True):
                rows.setdefault(f"{column.name} ({way})" if way else column.name, []).append(one)
            seconds += took
            done(f"ran {column.name} on {cell.name}")
    results = summary(grid, settings, rows, rates, [c for c in found if c.learned])
    results["seconds"] = round(seconds, 1)
    write_whole(out / "results.json", json.dumps(results) + "\n")
    report.grid(out, grid, results, rows, settings)
    return results


def _tune(grid: Grid, cell: Cell, column: Column, path: Path) -> tuple[np.ndarray, float]:
    """Mean log final loss of each rate on the cell's training split, and the seconds it took."""
    if not path.is_file():
        start, runner, scores = time.perf_counter(), Runner(grid, cell, column), []
        for rate in rates_of(grid.tune):
            values, _ = runner(float(rate), "train", grid.tune.runs)
            scores.append(log_loss(final(values["value"]), grid.floor).mean())
        jax.clear_caches()  # hundreds of programs in one process are more than its memory map can hold
        save(path, scores=np.array(scores), took=np.array(time.perf_counter() - start))
    known = arrays_of(path)
    return known["scores"], float(known["took"])


def _test(
    grid: Grid, cell: Cell, column: Column, path: Path, arguments: list[Any]
) -> tuple[list[dict[str, Any]], float]:
    """Runs on the cell's test split for each argument, and the seconds they took; those on disk are not made again."""
    names = [f"{a:.6g}" if isinstance(a, float) else column.sha256[:12] for a in arguments]
    known: dict[str, np.ndarray] = arrays_of(path) if path.is_file() else {}
    missing = [(n, a) for n, a in dict(zip(names, arguments, strict=True)).items() if f"{n}/value" not in known]
    if missing:
        start, runner = time.perf_counter(), Runner(grid, cell, column)
        for name, argument in missing:
            values, seconds = runner(argument, "test", grid.runs)
            known |= {f"{name}/{key}": value for key, value in values.items()} | {f"{name}/seconds": np.array(seconds)}
        known["took"] = known.get("took", np.array(0.0)) + time.perf_counter() - start
        save(path, **known)
        jax.clear_caches()
    return [
        {key.removeprefix(f"{name}/"): value for key, value in known.items() if key.startswith(f"{name}/")}
        | {"rate": argument if isinstance(argument, float) else None}
        for name, argument in zip(names, arguments, strict=True)
    ], float(known["took"])


def choose(scores: np.ndarray, grid: Grid) -> np.ndarray:
    """Rates [way, cell] from mean log losses [cell, rate]; the centre is the first cell."""
    rates = rates_of(grid.tune)
    whole, centre = np.argmin(scores.mean(0)), np.argmin(scores[0])
    n = len(scores)
    return np.stack([np.full(n, rates[centre]), np.full(n, rates[whole]), rates[np.argmin(scores, axis=1)]])


def summary(
    grid: Grid, settings: list[Cell], rows: dict[str, list[dict[str, Any]]], rates: dict[str, np.ndarray],
    learned: list[Column],
) -> dict[str, Any]:  # fmt: skip
    """The tables of a grid: per column and cell, and per column over the grid against the reference."""
    reference, centre = (f"{grid.reference} ({way})" for way in ("grid", "centre"))
    logs = {name: np.stack([log_loss(final(r["value"]), grid.floor) for r in runs]) for name, runs in rows.items()}
    held = {name: np.stack([log_loss(r["heldout_loss"], HELDOUT_FLOOR) for r in runs]) for name, runs in rows.items()}
    targets = np.exp(logs[reference].mean(1))
    reached = {
        name: [steps_to(r["value"], target) for r, target in zip(runs, targets, strict=True)]
        for name, runs in rows.items()
    }
    found = []
    for name, runs in rows.items():
        ratio, heldout = logs[name] - logs[reference], held[name] - held[reference]
        speed = [np.log(_late(a, c) / _late(b, c)) for a, b, c in
                 zip(reached[name], reached[reference], settings, strict=True)]  # fmt: skip
        wins = (ratio < 0) + 0.5 * (ratio == 0)
        found.append(
            {
                "name": name,
                "learned": name in [column.name for column in learned],
                "loss": _exp(statistics.interval(logs[name].mean(0))),
                "ratio": _exp(statistics.interval(ratio.mean(0))),
                "heldout_ratio": _exp(statistics.interval(heldout.mean(0))),
                "steps_ratio": _exp(statistics.interval(np.stack(speed).mean(0))),
                "win_rate": list(statistics.interval(wins.mean(0))),
                "worst": _worst(settings, ratio),
                "worst_by_centre": _worst(settings, logs[name] - logs[centre]),
                "diverged": int(sum((~np.isfinite(r["value"]).all(1)).sum() for r in runs)),
                "accuracy": float(np.mean([r["heldout_accuracy"].mean() for r in runs])),
                "microseconds": float(np.exp(np.mean([np.log(r["seconds"] * 1e6) for r in runs]))),
                "cells": [
                    {
                        "cell": cell.name, "rate": r["rate"], "loss": float(np.exp(logs[name][i].mean())),
                        "ratio": _exp(statistics.interval(ratio[i])),
                        "heldout_loss": float(np.exp(held[name][i].mean())),
                        "accuracy": float(r["heldout_accuracy"].mean()),
                        "diverged": int((~np.isfinite(r["value"]).all(1)).sum()),
                        "steps": _finite(np.median(reached[name][i])),
                        "seconds": _finite(np.median(reached[name][i]) * float(r["seconds"])),
                    }
                    for i, (cell, r) in enumerate(zip(settings, runs, strict=True))
                ],
            }
        )  # fmt: skip
    for column, scores in zip(found, profile_scores(found), strict=True):
        column["profile"] = scores
    ratios = {name: (logs[name] - logs[reference]).mean(1) for name in rows}
    groups = {
        name: np.stack([ratios[m if m in ratios else label(m)] for m in members], axis=1)
        for name, members in grid.groups.items()
    }
    return {
        "study": grid.model_dump(mode="json"),
        "reference": reference,
        "cells": [cell._asdict() for cell in settings],
        "targets": targets.tolist(),
        "sha256": {column.name: column.sha256 for column in learned},
        "rates": {name: dict(zip(WAYS[:2], chosen[:2, 0].tolist(), strict=True)) for name, chosen in rates.items()},
        "columns": found,
        "groups": {name: [_exp(statistics.interval(r)) for r in of_cells] for name, of_cells in groups.items()},
    }


def _worst(settings: list[Cell], ratio: np.ndarray) -> dict[str, Any]:
    """The cell with the largest geometric mean of ratios, from their logarithms [cell, run]."""
    means = ratio.mean(1)
    return {"cell": settings[int(means.argmax())].name, "ratio": float(np.exp(means.max()))}


def _late(steps: np.ndarray, cell: Cell) -> np.ndarray:
    """Runs that never reach a target count as twice the horizon in a mean."""
    return np.where(np.isfinite(steps), steps, 2 * cell.horizon)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def failures(column: dict[str, Any]) -> str:
    """One sentence on where an optimizer is worse than the reference, with an interval that excludes a tie."""
    worse = [c["cell"] for c in column["cells"] if c["ratio"][1] > 1]
    gone = [c["cell"] for c in column["cells"] if c["diverged"]]
    parts = []
    if worse:
        parts.append(f"worse than the reference on {', '.join(worse)}")
    if gone:
        parts.append(f"runs diverged on {', '.join(gone)}")
    return f"{column['name']}: {'; '.join(parts) or 'nowhere worse than the reference'}"


def over_seeds(results: dict[str, Any], name: str) -> str:
    """One sentence on where a group of meta-training seeds is better and worse than the reference."""
    named = [("better", []), ("worse", []), ("undecided", [])]
    for cell, (_, low, high) in zip(results["cells"], results["groups"][name], strict=True):
        named[0 if high < 1 else 1 if low > 1 else 2][1].append(Cell(**cell).name)
    seeds = len(results["study"]["groups"][name])
    return f"{name}, {seeds} meta-training seeds: " + "; ".join(f"{w} on {', '.join(n)}" for w, n in named if n)


def _exp(values: tuple[float, float, float]) -> list[float]:
    return [float(np.exp(v)) for v in values]
