"""Attacks of other packages, run unchanged on whole batches and verified like our own.

One adapter per package and the code they share. Our own attacks and evaluation logic belong elsewhere.
"""
