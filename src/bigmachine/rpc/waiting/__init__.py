"""Connections for threads that wait: the caller reads its answer by itself, and a thread on the machine serves it."""
