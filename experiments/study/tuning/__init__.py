"""A study of tuning: the best of few trials, on tables, models and functions."""
