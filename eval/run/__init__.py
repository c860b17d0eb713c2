"""Evaluating models: what is asked, clean images, attacks and corruptions of one model after another.

Hands verdicts to the store. Knows nothing of tables and pages.
"""
