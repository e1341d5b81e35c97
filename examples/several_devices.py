"""Training on several devices: each has a part of every minibatch.

Nothing is special about a learned optimizer here. The parameters and its state are the same on all devices, and the
gradient is the mean over the minibatch. On a CPU, JAX makes as many devices as it is told to.
"""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from sklearn.datasets import load_digits

import l2o

STEPS = 60
images, labels = load_digits(return_X_y=True)
images, labels = jnp.asarray(images / 16.0, jnp.float32), jnp.asarray(labels)
devices = jax.devices()[:2]
mesh = jax.make_mesh((len(devices),), ("batch",), devices=devices)
everywhere, divided = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
tx = l2o.load().optax(horizon=STEPS)


def loss(params, x, y):
    logits = jax.nn.relu(x @ params["w"]) @ params["v"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def step(params, state, x, y):
    value, grads = jax.value_and_grad(loss)(params, x, y)
    updates, state = tx.update(grads, state, params, value=value)
    return optax.apply_updates(params, updates), state, value


def train(sharding_of_all, sharding_of_batch):
    w_key, v_key, rows_key = jax.random.split(jax.random.key(0), 3)
    params = {"w": jax.random.normal(w_key, (64, 20)) / 8, "v": jax.random.normal(v_key, (20, 10)) / 4.5}
    params = jax.device_put(params, sharding_of_all)
    state = jax.device_put(tx.init(params), sharding_of_all)
    for rows in jax.random.randint(rows_key, (STEPS, 128), 0, len(labels)):
        x, y = jax.device_put((images[rows], labels[rows]), sharding_of_batch)
        params, state, value = step(params, state, x, y)
    return float(value)


alone = jax.sharding.SingleDeviceSharding(devices[0])
one, several = train(alone, alone), train(everywhere, divided)
print(f"loss after {STEPS} steps: {one:.4f} on one device, {several:.4f} on {len(devices)}")
assert max(one, several) < 0.5 and abs(one - several) < 0.2 * one
