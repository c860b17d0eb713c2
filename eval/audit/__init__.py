"""Stored results judged again: images by their model, rows by their verdicts, one engine by another.

Reads the store and runs models; writes nothing.
"""
