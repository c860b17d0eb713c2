"""Attacks of other packages, run unchanged on whole batches; their successes are verified like our own.

One adapter per package and what they share. No attack of our own, and no evaluation logic.
"""
