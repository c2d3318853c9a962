"""Processes, a folder each, and the edges that they share, a file each."""
