"""Image operations that corruption functions are made of: filters, colour spaces, layers, textures.

No corruption, no severity and no randomness beyond the draws that are handed in.
"""
