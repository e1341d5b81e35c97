"""What an OptFormer predicts of the values of recorded trials, and the scale that values are predicted on."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.study.optformers import Model
from experiments.study.pieces import Arrays
from l2o.optformer.decoding import EncodedStudy, begin, predict
from l2o.optformer.prompt import Prompt, Range, prompt, stripped
from l2o.record import Record
from l2o.space.domain import Space
from l2o.space.searchspace import SearchSpace
from tasks.family import TaskFamily


def named(family: TaskFamily, algorithm: str) -> Record | None:
    """The study of a task, without trials; None where tasks have no names."""
    told = getattr(family, "about", None)
    if told is None:
        return None
    return Record(SearchSpace.from_dict(told["space"]), told["name"], told["metric"], told["goal"], algorithm)


def prompts(family: TaskFamily, space: Space, algorithms: list[str], room: int) -> Prompt:
    """The prompts of n runs in these spaces, each of which names an algorithm.

    Args:
      family: of their tasks.
      space: with a leading axis.
      algorithms: of each run.
      room: length of metadata with names, see `l2o.optformer.prompt.prompt`.
    """

    def of(name: str) -> Callable[[int], Prompt]:
        record = named(family, name)
        if record is not None:
            found = prompt(record, room)
            return lambda _: found
        every = _stripped_prompts(space, name)
        return lambda i: jax.tree.map(lambda a: a[i], every)

    by_name = {name: of(name) for name in dict.fromkeys(algorithms)}
    return jax.tree.map(lambda *a: np.stack(a), *(by_name[name](i) for i, name in enumerate(algorithms)))


@partial(jax.jit, static_argnums=1)
def _stripped_prompts(space: Space, name: str) -> Prompt:
    return jax.vmap(lambda space: stripped(space, name))(space)


def scaled(steps: tuple[int, ...]) -> Callable[[Arrays], dict[str, Array]]:
    """`runs -> what there is to predict` of n runs, see `experiments.study.prediction.gp.predictor`, and more.

    That is, of each prediction, "truth" [n, s], the scaled value, whether it is "usable": it did not fail, and there is
    a range before it; and how far that is "curved", log(1 + curve span).
    """

    def at(y: Float[Array, "t"], step: Int[Array, ""]):
        before = jnp.arange(y.size) < step - 1
        scaling = Range.of(y, before)
        share = jnp.where(before & jnp.isfinite(y), scaling.share(jnp.nan_to_num(y)), jnp.nan)
        truth, usable = scaling.share(y[step - 1][None])[0], jnp.isfinite(y[step - 1]) & (scaling.span > 0)
        curved = jnp.log1p(scaling.curve * scaling.span)
        return {"share": share, "truth": truth, "usable": usable, "curved": curved, "step": step}

    def one(run):
        space = Space(*(run[name] for name in Space._fields))
        every = jax.vmap(partial(at, run["y"]))(jnp.asarray(steps))
        return {"u": jax.vmap(space.to_unit)(run["x"]), "categories": ~run["ordered"], **every}

    return jax.jit(jax.vmap(one))


def logits_of(model: Model, steps: tuple[int, ...]) -> Callable[[Any, Any], dict[str, Array]]:
    """`(theta, (x, y, space, prompt)) -> {"logits": [n, s, bins]}` of n runs: of the bins of the trials in `steps`.

    Those of a failed evaluation are left out: what remains is the prediction given that it succeeds.
    """
    config, net = model.config, model.config.network()
    v, bins = config.vocabulary, config.bins

    def one(theta, run):
        x, y, space, told = run
        token = jnp.where(told.token < 0, -1, told.token + bins)
        start = jnp.full((), v.word("start"), jnp.int32)
        study = EncodedStudy(net.encode(theta, token, told.slot), space.sizes(bins), space.ordered, told.first, start)
        points = jax.vmap(lambda x: space.to_tokens(x, bins))(x)
        size, most = points.shape[1] + 1, max(steps) - 1

        def at(step):
            values = Range.of(y, jnp.arange(y.size) < step - 1).tokens(y, v)
            trials = jnp.concatenate([points, values[:, None]], 1)[:most]
            context = begin(net, theta, study, trials.reshape(-1), (step - 1) * size)
            return predict(net, theta, study, context, points[step - 1])[:bins]

        return {"logits": jax.vmap(at)(jnp.asarray(steps))}

    return jax.jit(jax.vmap(one, (None, 0)))
