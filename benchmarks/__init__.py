"""Speed, measured on real processes in the shipped configuration: ``make bench``.

The one rule: no figure stands alone. Each is taken beside its floor, the least that a program could do
in its place, in turns with it, on the same server, in the same minute.
"""
