"""On the driver: what the running program is made of, found without sending or copying anything."""
