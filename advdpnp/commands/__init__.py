"""The commands of the command line, one module each: options, help, work and output.

Only this package prints. Command modules import torch and pandas inside functions, so that help appears at once.
Nothing here decides anything: parsing, calling the library, showing results.
"""
