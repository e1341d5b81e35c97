"""A study of imitation: whether an OptFormer does what its teachers do."""
