"""Measurements: speed as ratios taken side by side in one process, and the bias of estimators on a known example."""
