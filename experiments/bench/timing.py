"""Timings that can be compared: taken in turns within one process, reported as medians and as ratios of medians."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Call = Callable[[Any], Any]


class Timing(NamedTuple):
    """What one contender took.

    Attributes:
      compile: seconds of tracing and compilation.
      seconds: seconds of each call after that.
      temporary: peak bytes of intermediates, as the compiler plans them.
    """

    compile: float
    seconds: np.ndarray
    temporary: int

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return float(np.median(self.seconds))


def compiled(function: Call, state: Any, **jit: Any) -> tuple[Callable[[Any], Any], float, int]:
    """A function `state -> state` compiled with its argument donated, the seconds that took, and its peak memory."""
    start = time.perf_counter()
    program = jax.jit(function, donate_argnums=0, **jit).lower(state).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    return program, seconds, int(getattr(memory, "temp_size_in_bytes", 0))


def in_turns(contenders: dict[str, tuple[Call, Any]], rounds: int, calls: int = 1) -> dict[str, Timing]:
    """Time functions `state -> state`, each called `calls` times in every round, in turns.

    Args:
      contenders: a function and its first state, by name. A function with an attribute `plain` is called as it is,
        without being compiled as a whole.
      rounds: how often everybody has a turn; one more turn first warms up.
      calls: calls in a turn; the seconds reported are those of one call.
    """
    ready, states, seconds = {}, {}, {name: [] for name in contenders}
    for name, (function, state) in contenders.items():
        ready[name] = (function, 0.0, 0) if getattr(function, "plain", False) else compiled(function, state)
        states[name] = state
    for round_ in range(rounds + 1):
        for name, (program, _, _) in ready.items():
            start = time.perf_counter()
            for _ in range(calls):
                states[name] = program(states[name])
            jax.block_until_ready(states[name])
            if round_:
                seconds[name].append((time.perf_counter() - start) / calls)
    return {name: Timing(ready[name][1], np.array(seconds[name]), ready[name][2]) for name in contenders}


def ratio(first: Timing, second: Timing) -> list[float]:
    """How many times slower the first is than the second, round by round: median and quartiles."""
    values = first.seconds / second.seconds
    return [float(np.quantile(values, q)) for q in (0.5, 0.25, 0.75)]


def show(value: list[float]) -> str:
    """A ratio with its quartiles."""
    return f"{value[0]:.2f} ({value[1]:.2f}-{value[2]:.2f})"
