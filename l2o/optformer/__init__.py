"""Studies as sequences: an encoder-decoder that reads and continues them (Chen et al. 2022)."""
