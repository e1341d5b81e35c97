"""Regression on tables: a multilayer perceptron predicts a number from a row of numbers."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from l2o.registry import register
from tasks.family import Split
from tasks.hpo.hpo import NAMES, table
from tasks.hpo.hpo import TABLES as HPO_TABLES
from tasks.hpo.models import DATASETS, MODELS, SPACES, VIEWS, metrics
from tasks.networks.base import NetworkConfig, NetworkFamily, rows
from tasks.networks.layers import ACTIVATIONS, Activation, Depth, Size, hidden_layers

HOLDOUT = 0.2  # share of the rows that no inner training sees
SHUFFLE_SEED = 2016


class RegressionData(NamedTuple):
    """Rows of one split and what is held out: standardised features [n, features] and targets [n, 1]."""

    features: Any
    targets: Any
    heldout_features: Any
    heldout_targets: Any


@register
class RegressionConfig(NetworkConfig):
    """Squared error on a table of real numbers; tasks differ in their start.

    A fifth of the rows is held out; of the others half is for meta-training and half for studies. Features and
    targets have mean 0 and variance 1 on the rows that are learned from.

    Attributes:
      table: "diabetes" (442 patients, 10 features: how the disease went on), "wine" (178 wines, 12 features: the
        alcohol), or "tuning" (the bundled tables of `hpo`, 32 thousand trainings of scikit-learn models: the score,
        from model, dataset and setting).
      width: hidden units per layer.
      depth: hidden layers.
      activation: nonlinearity of the hidden layers.
      residual: every hidden layer but the first adds to its input.
      layer_norm: normalise what enters each activation, with a learned scale and offset.
    """

    kind: Literal["regression"] = "regression"
    table: Literal["diabetes", "wine", "tuning"] = "diabetes"
    width: Size = 32
    depth: Depth = 2
    activation: Activation = "relu"
    residual: bool = False
    layer_norm: bool = False

    def build(self, split: Split = "train") -> "Regression":
        """The family on one split of the rows."""
        features, targets = TABLES[self.table]()
        return Regression(RegressionData(*map(jnp.asarray, cut(features, targets, split))), self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Regression(NetworkFamily):
    """The family of `RegressionConfig`."""

    data: RegressionData
    config: RegressionConfig = field(metadata={"static": True})

    def outputs(self, inputs, variant):
        config = self.config
        activation = ACTIVATIONS[config.activation]
        x = hidden_layers(inputs, config.width, config.depth, activation, config.residual, config.layer_norm)
        return hk.Linear(1, name="head")(x)

    def minibatch(self, key, variant):
        numbers = rows(key, self.config, 0, len(self.data.targets))
        return self.data.features[numbers], self.data.targets[numbers]

    def heldout(self, variant):
        return self.data.heldout_features, self.data.heldout_targets

    def scores(self, outputs, targets):
        return {"loss": jnp.mean((outputs - targets) ** 2)}


def cut(features: Float[np.ndarray, "n f"], targets: Float[np.ndarray, "n"], split: Split) -> RegressionData:
    """The rows of a split and the held-out ones, which are the same for both; rows are shuffled with a fixed seed."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(features))
    heldout, others = np.split(order, [round(HOLDOUT * len(order))])
    half = len(others) // 2
    seen = others[:half] if split == "train" else others[half:]

    def standardised(columns):
        spread = columns[seen].std(0)
        columns = (columns - columns[seen].mean(0)) / np.where(spread > 0, spread, 1)
        return columns[seen].astype(np.float32), columns[heldout].astype(np.float32)

    (x, heldout_x), (y, heldout_y) = standardised(features), standardised(targets[:, None])
    return RegressionData(x, y, heldout_x, heldout_y)


def _diabetes() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_diabetes

    features, targets = load_diabetes(return_X_y=True)
    return np.asarray(features), np.asarray(targets)


def _wine() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_wine

    columns = np.asarray(load_wine(return_X_y=True)[0])
    return columns[:, 1:], columns[:, 0]


def _tuning() -> tuple[np.ndarray, np.ndarray]:
    """Rows of the tables of each model's first metric: its setting from -0.5 to 0.5, and ones for what it is.

    Every model has columns of its own, in which the others are at 0.
    """
    widths = {model: len(SPACES[model]) for model in MODELS}
    first = dict(zip(widths, np.cumsum([0, *widths.values()]), strict=False))
    features, targets = [], []
    for name in NAMES:
        if name.metric != metrics(name.dataset, name.model)[0]:
            continue
        measured = table(name, HPO_TABLES)
        setting = np.zeros((len(measured.value), sum(widths.values())))
        setting[:, first[name.model] :][:, : widths[name.model]] = np.asarray(measured.u) - 0.5
        which = (
            DATASETS.index(name.dataset),
            len(DATASETS) + name.view,
            len(DATASETS) + VIEWS + MODELS.index(name.model),
        )
        known = np.eye(len(DATASETS) + VIEWS + len(MODELS))[list(which)].sum(0)
        features.append(np.concatenate([setting, np.tile(known, (len(setting), 1))], axis=1))
        targets.append(np.asarray(measured.value))
    x, y = np.concatenate(features), np.concatenate(targets)
    return x[np.isfinite(y)], y[np.isfinite(y)]


TABLES = {"diabetes": _diabetes, "wine": _wine, "tuning": _tuning}
