"""Optimizers that read gradients. One architecture per file; importing it here registers it."""

from l2o.gradient import learned_polar as learned_polar
from l2o.gradient import lstm as lstm
from l2o.gradient import mlp as mlp
from l2o.gradient import rnnprop as rnnprop
