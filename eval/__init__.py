"""Evaluation: verdicts per sample, what follows from them, and how it is shown.

Here: ``api`` (one model in memory), ``config`` (the options, checked once) and the layers store, analysis, diagnostics,
run, report and audit. Nothing here prints, parses the command line or trains. Importing it imports nothing heavy.
"""
