"""Minimize a plain Python function: the loop around ask and observe."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from l2o.errors import UserError
from l2o.host.arguments import one_path, whole_number
from l2o.host.loop import Trial
from l2o.host.proposals import Named
from l2o.host.search import Result, Search


def minimize(
    f: Callable[[np.ndarray], Any],
    bounds: Sequence[Any] | np.ndarray,
    optimizer: Named = "rnn",
    *,
    budget: int = 100,
    seed: int = 0,
    workers: int = 1,
    callback: Callable[[Result], object] | None = None,
    path: str | Path | None = None,
    log: str | Path | None = None,
    guesses: Iterable[Any] = (),
    known: Iterable[tuple[Any, Any]] = (),
) -> Result:
    """Minimize a Python function of a box.

    An evaluation that raises an exception, or returns NaN or an infinity, has failed: the optimizer is told so, and the
    run goes on.

    Args:
      f: takes a float64 array of shape [d] and returns a real number.
      bounds: (low, high) for each dimension; for a range over decades, search its logarithm.
      optimizer: a shipped name, a directory, the kind of a baseline such as "random", or an optimizer itself.
      budget: number of evaluations.
      seed: decides all randomness; with one worker and a deterministic f the whole run.
      workers: evaluations at a time, each in a thread.
      callback: called after each evaluation with the result so far; it may raise StopIteration.
      path: a file that gets everything as it comes. The same call with the same file goes on where it stopped, and with
        one worker ends where it would have ended without the stop; a finished one returns at once.
      log: another name of `path`.
      guesses: points [d] to evaluate first, within the budget.
      known: pairs of a point and its value, from evaluations made before; the budget is for others.

    Raises:
      UserError: bad input, f returned something that is not a real number, or a log that is damaged, in use, or of
        another run.

    >>> import l2o
    >>> best = l2o.minimize(lambda x: ((x - 1) ** 2).sum(), [(-5, 10), (0, 15)], "random", budget=50, seed=0)
    >>> best.nfev, best.fun < 10
    (50, True)
    """
    for name, function in {"f": f, "callback": callback}.items():
        if not callable(function) and (name == "f" or function is not None):
            raise UserError(f"{name} is {function!r}: expected a function")
    workers = whole_number("workers", workers, 1, 10_000)
    path = one_path(path, log)
    with Search(bounds, optimizer, budget=budget, seed=seed, path=path, guesses=guesses, known=known) as search:
        pool = None if workers == 1 else ThreadPoolExecutor(workers)
        try:
            stopped = _run(search, lambda trial: _evaluate(f, trial), pool, workers, callback)
        finally:
            if pool:
                pool.shutdown(wait=False)  # after Ctrl-C, nobody waits for what is running
        result = search.result()
    if stopped:
        result.status, result.message = 1, f"the callback raised StopIteration: {result.message}"
    return result


def _run(search, evaluate, pool, workers, callback) -> bool:
    """Whether the callback stopped it; what is running then is still waited for and recorded."""
    running: dict[Future, Trial] = {}
    stopped = False
    while True:
        while not stopped and len(running) < min(workers, search.budget - search.evaluations):
            trial = search.ask()
            if pool is None:
                future = Future()
                future.set_result(evaluate(trial))
            else:
                future = pool.submit(evaluate, trial)
            running[future] = trial
        if not running:
            return stopped
        done = running if pool is None else wait(running, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=lambda future: running[future].number):
            value, error, seconds = future.result()
            search.observe(running.pop(future), value, error=error, seconds=seconds)
            if callback is not None and not stopped:
                try:
                    callback(search.result())
                except StopIteration:
                    stopped = True


def _evaluate(f: Callable[[np.ndarray], Any], trial: Trial) -> tuple[Any, str | None, float]:
    """What f returned, or the error that it raised, and the seconds it took."""
    start = time.perf_counter()
    try:
        value, error = f(trial.x.copy()), None
    except Exception as raised:
        value, error = None, f"{type(raised).__name__}: {raised}"
    return value, error, time.perf_counter() - start
