"""From an optimizer to an optimizer."""
