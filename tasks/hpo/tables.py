"""Makes the tables of `tasks.hpo.hpo`: `python -m tasks.hpo.tables [PROCESSES]`, which goes on where it was stopped.

For every dataset, view and model: settings spread evenly over the unit cube of the model's search space, and the two
metrics of each. About twenty minutes on two cores.
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.stats import qmc
from threadpoolctl import threadpool_limits

from tasks.hpo.hpo import TABLES
from tasks.hpo.models import DATASETS, MODELS, SPACES, VIEWS, metrics, score

PARTS = Path("runs/hpo_tables")  # finished tables, until all are
SETTINGS = 256


def path(dataset: str, model: str, view: int) -> Path:
    """Where the finished table of a task waits for the others."""
    return PARTS / f"{dataset}.{view}.{model}.safetensors"


def make(dataset: str, model: str, view: int) -> float:
    """Evaluate all settings of one table and write it; the seconds that it took."""
    begun, space = time.monotonic(), SPACES[model]
    threadpool_limits(1)
    cube = qmc.Sobol(len(space), seed=np.random.default_rng([DATASETS.index(dataset), MODELS.index(model), view]))  # pyright: ignore
    settings = [space.from_unit(u) for u in cube.random(SETTINGS)]
    found = [score(dataset, model, setting, view) for setting in settings]
    names = metrics(dataset, model)
    save_file(
        {
            "x": np.array([space.to_point(setting) for setting in settings], np.float32),
            **{name: np.array([row[name] for row in found], np.float32) for name in names},
        },
        path(dataset, model, view),
    )
    return time.monotonic() - begun


def main() -> None:
    """Make the tables that are missing, then one file of all."""
    PARTS.mkdir(parents=True, exist_ok=True)
    every = [(dataset, model, view) for view in range(VIEWS) for model in MODELS for dataset in DATASETS]
    missing = [task for task in every if not path(*task).exists()]
    with ProcessPoolExecutor(int(sys.argv[1]) if len(sys.argv) > 1 else None) as pool:
        futures = {pool.submit(make, *task): task for task in missing}
        for done in as_completed(futures):
            dataset, model, view = futures[done]
            print(f"{model} on {dataset}, view {view}: {done.result():.0f} s", flush=True)
    TABLES.parent.mkdir(exist_ok=True)
    tables = {task: load_file(path(*task)) for task in every}
    save_file(
        {
            f"{dataset}.{view}.{model}.{name}": a
            for (dataset, model, view), table in tables.items()
            for name, a in table.items()
        },
        TABLES,
    )


if __name__ == "__main__":
    main()
