"""A study over a grid of settings: activations, architectures and horizons, one factor at a time and at the corners.

Every cell is a small training problem. Each tuned column is run with three learning rates: the one that is best on the
centre cell (the family a person would tune on), the one that is best over the whole grid, and the one that is best on
the cell itself (the oracle). Rates are chosen on data, starts and minibatches that nothing reported comes from.
"""

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import report, statistics
from experiments.config import Grid
from experiments.run import claim
from experiments.study import Column, columns, rates_of
from l2o.errors import UserError
from l2o.files import write_whole
from l2o.registry import parse
from meta.evaluate import evaluate
from meta.trainer import difference
from tasks.family import FamilyConfig

WAYS = ("centre", "grid", "cell")
TAIL = 20  # the final loss is the mean over the last 1/TAIL of the run
Say = Callable[[str], None]


class Cell(NamedTuple):
    """A setting; its name is a file name."""

    activation: str
    architecture: str
    horizon: int

    @property
    def name(self) -> str:
        return f"{self.activation}-{self.architecture}-{self.horizon}"


def cells(grid: Grid) -> list[Cell]:
    """The settings that are run, the centre first."""
    centre = Cell(grid.centre.activation, grid.centre.architecture, grid.centre.horizon)
    if grid.cross:
        found = [Cell(*c) for c in itertools.product(grid.activations, grid.architectures, grid.horizons)]
    else:
        found = [centre._replace(activation=a) for a in grid.activations]
        found += [centre._replace(architecture=a) for a in grid.architectures]
        found += [centre._replace(horizon=h) for h in grid.horizons]
        corners = grid.corners
        found += [Cell(*c) for c in itertools.product(corners.activations, corners.architectures, corners.horizons)]
    return list(dict.fromkeys([centre, *found]))


def family_of(grid: Grid, cell: Cell) -> FamilyConfig:
    """The task family of a cell."""
    return parse(FamilyConfig, {**grid.task, **grid.architectures[cell.architecture], "activation": cell.activation})


def final(values: np.ndarray) -> np.ndarray:
    """Final loss of each run [runs, horizon + 1] -> [runs]: the mean over the last twentieth; inf if it diverged."""
    tail = values[:, -max(1, values.shape[1] // TAIL) :].astype(np.float64)
    return np.where(np.isfinite(values).all(1), np.where(np.isfinite(tail), tail, 0).mean(1), np.inf)


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
    """Run a grid into a directory: cells/*.npz, results.json, heatmap.png, curves.png, report.html, config.toml.

    Raises:
      UserError: the directory is in use or holds another study, or an optimizer does not exist.
    """
    found, settings = columns(grid), cells(grid)
    if grid.reference not in [column.name for column in found if column.tuned]:
        raise UserError(f"reference: {grid.reference!r} is none of the tuned optimizers of the grid")
    if resume and (out / "config.toml").is_file():
        changed = difference(_identity(Grid.load(out / "config.toml")), _identity(grid))
        if changed:
            raise UserError(f"cannot resume {out}: {changed} since the study began")
    else:
        claim(out, "choose another --out, or --resume the study in it")
    write_whole(out / "config.toml", grid.toml())
    (out / "cells").mkdir(exist_ok=True)
    say(f"{len(settings)} cells, {len(found)} optimizers, {grid.runs} runs each")
    started, total = time.perf_counter(), len(settings) * len(found)
    tuning: dict[str, dict[str, np.ndarray]] = {}
    for number, (cell, column) in enumerate(itertools.product(settings, found)):
        if column.tuned:
            path = out / "cells" / f"{cell.name}-{column.name}-tune.npz"
            tuning.setdefault(column.name, {})[cell.name] = _tune(grid, cell, column, path)
            if (number + 1) % 10 == 0 or number + 1 == total:
                say(f"tuned {number + 1} of {total} ({time.perf_counter() - started:.0f} s): {cell.name}")
    rates = {name: choose(np.stack([scores[c.name] for c in settings]), grid) for name, scores in tuning.items()}
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, (index, column) in enumerate(itertools.product(range(len(settings)), found)):
        cell = settings[index]
        path = out / "cells" / f"{cell.name}-{column.name}.npz"
        wanted = [float(r) for r in rates[column.name][:, index]] if column.tuned else [column.argument]
        runs = _test(grid, cell, column, path, wanted)
        for way, one in zip(WAYS if column.tuned else ("",), runs, strict=True):
            label = f"{column.name} ({way})" if way else column.name
            rows.setdefault(label, []).append(one)
        if (number + 1) % 10 == 0 or number + 1 == total:
            say(f"ran {number + 1} of {total} ({time.perf_counter() - started:.0f} s): {cell.name}")
    results = summary(grid, settings, rows, rates, [c for c in found if c.learned])
    results["seconds"] = round(time.perf_counter() - started, 1)
    write_whole(out / "results.json", json.dumps(results) + "\n")
    report.grid(out, grid, results, rows, settings)
    return results


def _identity(grid: Grid) -> dict[str, Any]:
    """What a resumed grid may not change; columns may be added and cells too."""
    return grid.model_dump(
        mode="json", include={"kind", "seed", "task", "runs", "tune", "floor", "centre"}, exclude_none=True
    )


def _tune(grid: Grid, cell: Cell, column: Column, path: Path) -> np.ndarray:
    """Mean log final loss of each rate on the cell's training split."""
    if path.is_file():
        return np.load(path)["scores"]
    runner = Runner(grid, cell, column)
    scores = []
    for rate in rates_of(grid.tune):
        values, _ = runner(float(rate), "train", grid.tune.runs)
        scores.append(log_loss(final(values["value"]), grid.floor).mean())
    jax.clear_caches()  # hundreds of programs in one process are more than its memory map can hold
    _save(path, scores=np.array(scores))
    return np.array(scores)


def _test(grid: Grid, cell: Cell, column: Column, path: Path, arguments: list[Any]) -> list[dict[str, Any]]:
    """Runs on the cell's test split for each argument; those on disk are not made again."""
    names = [f"{a:.6g}" if isinstance(a, float) else column.sha256[:12] for a in arguments]
    known: dict[str, np.ndarray] = dict(np.load(path)) if path.is_file() else {}
    runner = None
    for name, argument in zip(names, arguments, strict=True):
        if f"{name}/value" in known:
            continue
        runner = runner or Runner(grid, cell, column)
        values, seconds = runner(argument, "test", grid.runs)
        known |= {f"{name}/{key}": value for key, value in values.items()} | {f"{name}/seconds": np.array(seconds)}
        _save(path, **known)
        jax.clear_caches()
    return [
        {key.removeprefix(f"{name}/"): value for key, value in known.items() if key.startswith(f"{name}/")}
        | {"rate": argument if isinstance(argument, float) else None}
        for name, argument in zip(names, arguments, strict=True)
    ]


def _save(path: Path, **arrays: np.ndarray) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
    part.replace(path)


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
    reference = f"{grid.reference} (grid)"
    logs = {name: np.stack([log_loss(final(r["value"]), grid.floor) for r in runs]) for name, runs in rows.items()}
    held = {name: np.stack([np.log(np.clip(np.nan_to_num(r["heldout_loss"], nan=1e3), 1e-4, 1e3)) for r in runs])
            for name, runs in rows.items()}  # fmt: skip
    reached = {name: [steps_to(r["value"], np.exp(logs[reference][i].mean())) for i, r in enumerate(runs)]
               for name, runs in rows.items()}  # fmt: skip
    columns_found = []
    for name, runs in rows.items():
        ratio, heldout = logs[name] - logs[reference], held[name] - held[reference]
        per_cell = ratio.mean(1)
        speed = np.stack([ours / theirs for ours, theirs in zip(reached[name], reached[reference], strict=True)])
        columns_found.append(
            {
                "name": name,
                "learned": name in [column.name for column in learned],
                "loss": _exp(statistics.interval(logs[name].mean(0))),
                "ratio": _exp(statistics.interval(ratio.mean(0))),
                "heldout_ratio": _exp(statistics.interval(heldout.mean(0))),
                "steps_ratio": float(np.exp(np.log(speed).mean())),
                "win_rate": statistics.paired(logs[name].mean(0), logs[reference].mean(0))["win_rate"],
                "cells_won": float(np.mean(per_cell < 0)),
                "worst": {"cell": settings[int(per_cell.argmax())].name, "ratio": float(np.exp(per_cell.max()))},
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
                    }
                    for i, (cell, r) in enumerate(zip(settings, runs, strict=True))
                ],
            }
        )  # fmt: skip
    return {
        "study": grid.model_dump(mode="json"),
        "reference": reference,
        "cells": [cell._asdict() for cell in settings],
        "sha256": {column.name: column.sha256 for column in learned},
        "rates": {name: dict(zip(WAYS[:2], chosen[:2, 0].tolist(), strict=True)) for name, chosen in rates.items()},
        "columns": columns_found,
    }


def steps_to(values: np.ndarray, target: float) -> np.ndarray:
    """The first step of each run [runs, horizon + 1] at which its smoothed loss is at most the target.

    Smoothed: the running mean over a twentieth of the horizon. A run that never gets there counts as twice the horizon.
    """
    horizon = values.shape[1] - 1
    width = max(1, horizon // TAIL)
    sums = np.cumsum(np.nan_to_num(values.astype(np.float64), nan=1e9, posinf=1e9), axis=1)
    smooth = (sums[:, width:] - sums[:, :-width]) / width
    there = smooth <= target
    return np.where(there.any(1), there.argmax(1) + width, 2 * horizon)


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


def _exp(values: tuple[float, float, float]) -> list[float]:
    return [float(np.exp(v)) for v in values]
