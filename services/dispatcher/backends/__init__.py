"""The ways to talk to a GPU server, one file for each protocol, all behind ``base.Adapter``."""
