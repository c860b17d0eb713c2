"""Search copies: faster copies of a model that attacks query. The model itself verifies their successes.

This package makes and tests the copies. Attacks and their loop belong elsewhere.
"""
