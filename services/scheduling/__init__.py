"""Which waiting task runs where, and when it should be done: pure, and shared by all who ask.

The dispatchers choose by it, the api foretells by it, and the command line replays the past by it.
"""
