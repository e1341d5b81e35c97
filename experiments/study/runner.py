"""Runs of one optimizer on tasks of one family, compiled once for all its learning rates and both splits."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study.columns import Column
from meta.evaluate import evaluate
from tasks.family import TaskFamily


class Runner:
    """Runs of one column on one family of tasks.

    Attributes:
      families: of both splits, "train" and "test".
      column: the optimizer.
      horizon: updates in a run.
      seed: decides starts and minibatches, the same for every column.
      together: runs computed side by side.
    """

    def __init__(
        self, families: Mapping[str, TaskFamily], column: Column, *, horizon: int, seed: int, together: int
    ) -> None:
        self.families, self.column, self.horizon = families, column, horizon
        self.seed, self.together = seed, together
        self._programs: dict[Any, Any] = {}

    def __call__(
        self, argument: Any, split: str, runs: int, measure: bool = True
    ) -> tuple[dict[str, np.ndarray], float]:
        """Values and measures of each run, and seconds per step of one run.

        Args:
          argument: for `column.make`; numbers in it may change without another compilation.
          split: where the tasks come from.
          runs: how many.
          measure: also take the measures of the tasks, which may be held-out losses; the seconds have their time, too.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), split == "test")
        argument = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, argument)
        family = self.families[split]
        which = (measure, *(leaf.shape for leaf in jax.tree.leaves(family)))
        if which not in self._programs:
            lowered = evaluate.lower(
                self.column.make, argument, family, key, tasks=self.together, horizon=self.horizon, measure=measure
            )
            self._programs[which] = lowered.compile()
        start = time.perf_counter()
        keys = [jax.random.fold_in(key, number) for number in range(-(-runs // self.together))]
        found = jax.block_until_ready([self._programs[which](argument, family, k) for k in keys])
        seconds = (time.perf_counter() - start) / (len(found) * self.together) / self.horizon
        names = list(found[0])
        arrays = {name: np.concatenate([np.asarray(f[name], np.float32) for f in found])[:runs] for name in names}
        return arrays, seconds
