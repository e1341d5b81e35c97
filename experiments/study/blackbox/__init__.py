"""A study of black-box optimizers: regret, evaluation by evaluation."""
