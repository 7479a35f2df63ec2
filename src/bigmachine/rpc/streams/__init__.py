"""Streams: arguments and results that are sent item by item, with back-pressure, in either direction."""
