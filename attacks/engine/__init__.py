"""The engine: runs a model in batches of one size, schedules rows, verifies every success.

Knows the protocol of attacks and no attack by name.
"""
