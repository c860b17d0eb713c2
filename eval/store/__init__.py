"""Verdicts on disk: keys, schemas, one folder per model, written as found and read back.

Knows files and nothing of how verdicts are found or shown.
"""
