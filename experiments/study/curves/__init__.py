"""A study of losses: one task family, tuned learning rates, step by step."""
