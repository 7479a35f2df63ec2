"""The same as five_machines with execnet: five interpreters, pipes to each, no TLS."""

from __future__ import annotations

import sys

import execnet

group = execnet.Group()
channels = [group.makegateway("popen").remote_exec("channel.send(channel.receive())") for _ in range(5)]
for channel in channels:
    channel.send(1)
for channel in channels:
    channel.receive()
print("ready", flush=True)
sys.stdin.read()
group.terminate(timeout=2)
