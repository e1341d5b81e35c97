"""Studies as sequences: an encoder-decoder that reads and continues them (Chen et al. 2022)."""

from l2o.optformer import optformer as optformer
