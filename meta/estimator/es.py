"""Evolution strategies on whole or truncated unrolls."""

from typing import Literal

from l2o.registry import register
from meta.estimator.perturbed import PerturbedConfig


@register
class ESConfig(PerturbedConfig):
    """Antithetic evolution strategies (Salimans et al. 2017; Metz et al. 2019, section 3).

    Unbiased for the smoothed meta-loss on whole unrolls (the default). With an `unroll_length` below the horizon both
    runs of a pair start each window from one state, and what the window does to later ones is not seen: biased like
    truncated backprop.
    """

    kind: Literal["es"] = "es"

    def build(self, learned, objective, horizon, tasks, axis=None):
        return self.estimator(learned, objective, horizon, tasks, axis, noise="window", persistent=False)
