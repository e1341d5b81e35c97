"""A study of evolution strategies: best values, generation by generation."""
