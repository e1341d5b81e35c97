"""Which estimators see beyond their window: estimates and learning curves on the influence-balancing example."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.bench.influence import estimates, exact, learn
from experiments.page import figure_of
from l2o.registry import parse
from meta.estimator import EstimatorConfig

HORIZON, WINDOW, SIGMA, THETA = 100, 5, 0.1, 0.5
ESTIMATORS: dict[str, dict[str, Any]] = {
    "backprop, whole run": {"kind": "backprop", "unroll_length": HORIZON},
    "backprop, windows of 5": {"kind": "backprop", "unroll_length": WINDOW},
    "es, whole run": {"kind": "es", "sigma": SIGMA},
    "es, windows of 5": {"kind": "es", "sigma": SIGMA, "unroll_length": WINDOW},
    "pes, windows of 5": {"kind": "pes", "sigma": SIGMA, "unroll_length": WINDOW},
    "nres, windows of 5": {"kind": "nres", "sigma": SIGMA, "unroll_length": WINDOW},
}


def run(quick: bool = False, figure: Path | None = None) -> dict[str, Any]:
    """Measure, print and draw; returns the rows as JSON."""
    repeats, steps, tasks = (100, 50, 4) if quick else (4000, 600, 32)
    _, truth = exact(THETA, HORIZON)
    grid = np.linspace(-0.5, 1, 3001)
    best = float(grid[np.argmin([exact(theta, HORIZON)[0] for theta in grid])])
    print(f"influence balancing, {HORIZON} steps; at theta = {THETA} the exact meta-gradient is {truth:.2f}")
    print(f"theta is learned from {THETA}; the best is {best:.3f}")
    print(
        f"{'estimator':>24} {'mean':>8} {'standard error':>15} {'in standard errors':>19} {'spread of one':>14}  theta"
    )
    rows = []
    for name, fields in ESTIMATORS.items():
        config = parse(EstimatorConfig, {**fields, "stagger": False})
        found = estimates(config, jnp.asarray(THETA), HORIZON, repeats if "sigma" in fields else 1)
        error = float(found.std(ddof=1) / len(found) ** 0.5) if len(found) > 1 else 0.0
        curve = learn(parse(EstimatorConfig, fields), HORIZON, steps, tasks, rate=5e-3)
        off = f"{(found.mean() - truth) / error:.1f}" if error else "-"
        rows.append(
            {
                "estimator": name, "exact": truth, "mean": float(found.mean()), "standard_error": error,
                "spread": error * len(found) ** 0.5, "theta": [float(value) for value in curve],
            }
        )  # fmt: skip
        print(
            f"{name:>24} {found.mean():>8.2f} {error:>15.2f} {off:>19} {rows[-1]['spread']:>14.1f}  {curve[-1]:.3f}",
            flush=True,
        )
    if figure is not None:
        _draw(rows, best, figure)
    return {"best_theta": best, "rows": rows}


def _draw(rows: list[dict[str, Any]], best: float, path: Path) -> None:
    figure = figure_of(11, 4)
    left, right = figure.subplots(1, 2)
    names, means = [row["estimator"] for row in rows], [row["mean"] for row in rows]
    left.barh(names, means, xerr=[4 * row["standard_error"] for row in rows], color="tab:blue", capsize=3)
    left.axvline(rows[0]["exact"], color="black", linestyle="--", linewidth=1)
    left.axvline(0, color="grey", linewidth=0.5)
    left.invert_yaxis()
    left.set(xlabel="mean estimate of the meta-gradient, with 4 standard errors")
    left.set_title("dashed: the exact gradient", fontsize=10)
    styles = ["-", "-", "--", "--", "-", ":"]
    for row, style in zip(rows, styles, strict=True):
        right.plot(row["theta"], style, label=row["estimator"])
    right.axhline(best, color="black", linestyle="--", linewidth=1, label="best theta")
    right.set(xlabel="meta-step", ylabel="theta", ylim=(-0.3, 1.6))
    right.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
