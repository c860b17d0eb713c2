"""What one looks at while a run trains: its curves, its speed and time left, and the loggers of other programs.

Code here only reads a run: nothing in it may change what is trained.
"""
