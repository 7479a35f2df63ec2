"""Hosts that have nothing of ours: how stage 0 gets there, and how it makes the host run an agent."""
