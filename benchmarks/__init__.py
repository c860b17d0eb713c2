"""Measurements on real input, against other packages and public nets, and experiments behind committed tables.

Each script names its command and writes one table. Nothing in the package imports from here.
"""
