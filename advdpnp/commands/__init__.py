"""The commands of the command line, one module each, and what they print with.

Only this package prints. A command reads its options, calls the library and shows what came of it.
"""
