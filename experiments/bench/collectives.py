"""What devices send each other in an update of rules for whole tensors, each tensor split over four of them."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.bench.rules import REFERENCE, parameters, rules
from l2o.errors import UserError

DEVICES = 4
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}


def split(params: Any) -> Any:
    """Parameters whose last axis that four devices can share is divided among them; a leaf without one is on all."""
    if len(jax.devices()) < DEVICES:
        raise UserError(f"found {len(jax.devices())} devices, expected at least {DEVICES} to split parameters over")
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("model",))

    def place(leaf):
        shared = [axis for axis, length in enumerate(leaf.shape) if length and length % DEVICES == 0]
        axes = ["model" if shared and axis == shared[-1] else None for axis in range(leaf.ndim)]
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

    return jax.tree.map(place, params)


def counted(program: str) -> tuple[int, int]:
    """How many collectives there are in a compiled program's text, and the bytes of their results."""
    count = total = 0
    for result in re.findall(rf"= (\(?[^=]*?) (?:{KINDS})(?:-start)?\(", program):
        count += 1
        for dtype, shape in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", result):
            total += BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
    return count, total


def sent(tx: optax.GradientTransformation, params: Any) -> tuple[int, int]:
    """The collectives of one update, and their bytes."""
    tx = optax.with_extra_args_support(tx)
    placed = split(params)
    state = tx.init(placed)

    def update(gradients, state, params):
        updates, state = tx.update(gradients, state, params, value=jnp.ones(()))
        return optax.apply_updates(params, updates), state

    return counted(jax.jit(update).lower(placed, state, placed).compile().as_text() or "")


def run(quick: bool = False) -> dict[str, Any]:
    """Count and print; returns the rows as JSON."""
    rows = []
    print(f"{'':>12} {'rule':>14} {'collectives':>12} {'kB':>8}   of one update, {DEVICES} devices")
    for name, params in parameters(quick).items():
        for rule, tx in rules().items():
            count, total = sent(tx, params)
            rows.append({"tree": name, "rule": rule, "collectives": count, "bytes": total})
            print(f"{name:>12} {rule:>14} {count:>12} {total / 1e3:>8.1f}", flush=True)
    return {"devices": DEVICES, "reference": REFERENCE, "rows": rows}
