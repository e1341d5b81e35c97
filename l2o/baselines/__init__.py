"""Hand-designed optimizers, wrapped. Importing a file here registers its kinds."""

from l2o.baselines import optax as optax
