"""What is searched: bounds and kinds of parameters."""
