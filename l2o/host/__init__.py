"""Loops of your own: ask and tell on the host, in double precision, with a log."""
