"""The imitation learner: theta that makes recorded studies likely, from the architecture's own `log_prob`."""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from pydantic import Field, model_validator

from l2o.errors import UserError
from l2o.registry import register
from meta.learner.adamw import AdamWConfig
from meta.learner.base import Learner, specs
from meta.parallel import AXIS, DIVIDED, WHOLE, mesh
from meta.recordings.recorded import Recorded
from tasks.family import TaskFamily, Wrapper


@register
class ImitationConfig(AdamWConfig):
    """AdamW on the likelihood of recorded studies: what was asked, and what was told (Chen et al. 2022, equation 3).

    Studies are drawn anew in each meta-step: cut at a random trial, so that they fall into one of the buckets by
    length, and augmented, see `meta.recordings.recorded.Recorded`. `meta.tasks` is the number of studies in a meta-step
    on the longest bucket; on one of a half of its length it is twice that, and so on. A meta-step reads studies with
    names, or studies without.

    Attributes:
      buckets: lengths in tokens that sequences are padded to, increasing; meta-steps use each equally often.
      x_weight: of the log-probabilities of parameters in the loss.
      y_weight: of those of values.
    """

    kind: Literal["imitation"] = "imitation"
    estimates: ClassVar[bool] = False
    learning_rate: float = Field(default=2e-3, gt=0)
    buckets: tuple[int, ...] = Field(default=(50, 100, 200), min_length=1, strict=False)
    x_weight: float = Field(default=1.0, ge=0)
    y_weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _check(self):
        if list(self.buckets) != sorted(set(self.buckets)) or self.buckets[0] < 2:
            raise ValueError(f"buckets must increase from at least 2, found {list(self.buckets)}")
        if self.x_weight + self.y_weight == 0:
            raise ValueError("x_weight and y_weight must not both be 0")
        return self

    def build(self, learned, objective, estimator, horizon, tasks, steps, devices=1, parts=1):
        del objective, estimator, horizon, parts
        if learned.log_prob is None:
            raise UserError("meta.optimizer.kind 'imitation' needs an optimizer with a likelihood, such as optformer")
        chosen, log_prob = mesh(devices, tasks), learned.log_prob
        transformation = self.transformation(steps)
        starts = (0, *self.buckets[:-1])

        def negative(theta, keys, family, i, names, held_out=False):
            """Sums over studies of bucket i: of -log p of parameters and of values, and how many of each."""

            def one(key):
                problem, run = recorded(family).draw(key, starts[i], self.buckets[i], names=names, held_out=held_out)
                found = log_prob(theta, problem, run)
                trials = jnp.sum(run.mask)
                coordinates = trials * problem.context.parameters
                told = jnp.sum(run.mask & (run.evaluation.value[:, 0] != -jnp.inf))
                return -jnp.sum(found["x"]), -jnp.sum(found["y"]), coordinates, told

            return [jnp.sum(a) for a in jax.vmap(one)(keys)]

        def total(theta, keys, family, i, names):
            sums = negative(theta, keys, family, i, names)
            return self.x_weight * sums[0] + self.y_weight * sums[1], jnp.stack(sums)

        def init(key, family, theta):
            del family
            return self.begin(theta, transformation.init(theta), jax.random.key_data(key))

        counts = [tasks * (self.buckets[-1] // length) for length in self.buckets]

        def on(i, names):
            def estimate(theta, keys, family):
                (_, sums), gradient = jax.value_and_grad(total, has_aux=True)(theta, keys[i], family, i, names)
                return sums, gradient

            return estimate

        def shared(theta, keys, family, which):
            present = told(recorded(family).train_named)
            branches = [on(i, names) for names in present for i in range(len(self.buckets))]
            return jax.lax.psum(jax.lax.switch(which, branches, theta, keys, family), AXIS)

        # check_vma=False: with it, grad inside would be summed over devices once more, silently
        shared = jax.shard_map(
            shared, mesh=chosen, in_specs=(WHOLE, DIVIDED, WHOLE, WHOLE), out_specs=WHOLE, check_vma=False
        )

        def step(state, family):
            key = jax.random.fold_in(jax.random.wrap_key_data(state.estimator), state.step)
            bucket_key, name_key, *study_keys = jax.random.split(key, 2 + len(counts))
            i = jax.random.randint(bucket_key, (), 0, len(counts))
            share = recorded(family).train_named
            if len(told(share)) > 1:
                i = i + len(counts) * jax.random.bernoulli(name_key, share)
            keys = [jax.random.split(key, count) for key, count in zip(study_keys, counts, strict=True)]
            (x, y, coordinates, trials), gradient = shared(state.theta, keys, family, i)
            weight = self.x_weight * coordinates + self.y_weight * trials
            value = (self.x_weight * x + self.y_weight * y) / weight
            gradient = jax.tree.map(lambda g: g / weight, gradient)
            norm = optax.tree.norm(gradient)
            updates, optimizer = transformation.update(gradient, state.optimizer, state.theta)
            theta = optax.apply_updates(state.theta, updates)
            metrics = {
                "meta_loss": value, "gradient_norm": norm, "loss_x": x / coordinates, "loss_y": y / trials,
                "tokens": coordinates + trials,
            }  # fmt: skip
            ok = jnp.isfinite(norm) & jnp.isfinite(value)
            return self.advance(state, ok, theta, optimizer, state.estimator), metrics

        def validate(theta, family, key, count):
            share, sums = recorded(family).test_named, []
            for names in told(share):
                some = max(round(count * (share if names else 1 - share)) // len(self.buckets), 1)
                key, drawn = jax.random.split(key)
                keys = jax.random.split(drawn, (len(self.buckets), some))
                sums += [negative(theta, keys[i], family, i, names, held_out=True) for i in range(len(self.buckets))]
            x, y, coordinates, trials = (jnp.sum(jnp.stack(parts)) for parts in zip(*sums, strict=True))
            weight = self.x_weight * coordinates + self.y_weight * trials
            score = (self.x_weight * x + self.y_weight * y) / weight
            return {"validation": score, "validation_x": x / coordinates, "validation_y": y / trials}

        return Learner(init, step, specs(estimator=WHOLE), chosen, validate)


def recorded(family: TaskFamily) -> Recorded:
    """The recorded studies within a family; they have lengths of their own, whatever the horizon.

    Raises:
      UserError: it is another family.
    """
    while isinstance(family, Wrapper):
        family = family.family
    if not isinstance(family, Recorded):
        raise UserError("meta.optimizer.kind 'imitation' needs recorded studies, task.kind 'trajectories'")
    return family


def told(named: float) -> list[bool]:
    """Whether studies are told without names, with names, or both, where this share is told with names."""
    return [names for names, share in ((False, 1 - named), (True, named)) if share > 0]
