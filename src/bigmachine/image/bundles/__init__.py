"""What a bare host needs before it can take an image in: an interpreter, and the agent with its packages."""
