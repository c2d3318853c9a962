"""The simulator of GPU servers, for the demo, for tests and for benchmarks.

It speaks the protocols of real servers with their quirks, one profile each. It never imports from
the other processes, and they never import from it.
"""
