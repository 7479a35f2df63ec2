"""On a host: the layers that are there, images put together from them, and what is collected."""
