"""Optimizers of other libraries as ours."""
