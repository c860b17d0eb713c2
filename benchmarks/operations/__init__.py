"""What an attack asks of an accelerator, counted without one: kernel launches, and waits of the host.

``device`` has a device that computes on the CPU but refuses and counts what a GPU would refuse and wait for.
``python -m benchmarks.operations`` counts the engine's attacks and those of pyautoattack on it. Times it cannot tell.
"""
