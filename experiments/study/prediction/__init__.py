"""A study of prediction: how well an OptFormer knows values that it was not told."""
