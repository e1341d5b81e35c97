"""Optimizers that read gradients. One architecture per file; importing it here registers it."""

from l2o.gradient import lstm as lstm
