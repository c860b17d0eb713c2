"""Robust image classifiers: training, attack and evaluation."""

__version__ = "0.1.0"
