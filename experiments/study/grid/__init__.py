"""A study over activations, architectures, horizons and datasets."""
