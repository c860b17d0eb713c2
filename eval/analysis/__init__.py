"""What follows from stored verdicts: rows, comparisons, means over seeds, agreement.

Reads the store; makes numbers and data frames. No model runs here, and nothing is drawn or printed.
"""
