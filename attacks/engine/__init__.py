"""The engine: runs a model in batches of one size, schedules rows, and verifies every success.

It knows the protocol of attacks. Code for a single attack belongs in ``algorithms``.
"""
