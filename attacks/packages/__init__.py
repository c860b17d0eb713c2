"""Attacks of other packages, run as they are on whole batches and verified like our own."""
