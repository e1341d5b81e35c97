"""Kinds of studies: one contract, one engine, a folder for each kind."""
