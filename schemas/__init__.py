"""Everything that crosses a process boundary, and nothing else: pure, standard library and msgspec."""
