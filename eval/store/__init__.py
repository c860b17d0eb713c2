"""Verdicts on disk: keys, schemas, one folder per model, written as found and read back.

Knows files, not how verdicts are found or shown. Whatever reads a file raises ``AdvdpnpError`` if it is damaged.
"""
