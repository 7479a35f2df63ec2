"""Locks that note who waits for them, in a process of its own: they stay in the place of `threading`'s."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, queue, threading, time
from bigmachine.observe import contention

contention.install()
contention.install()
assert type(threading.Lock()) is contention.Lock

def waits(lock):
    with lock:
        pass

for lock in (threading.Lock(), threading.RLock()):
    assert lock.acquire(timeout=1)
    thread = threading.Thread(target=waits, args=(lock,))
    thread.start()
    time.sleep(0.1)
    lock.release()
    thread.join()
    assert not lock.acquire(False) or lock.release() is None

again = threading.RLock()
with again, again:  # its own thread takes it as often as it likes
    pass
assert not threading.Lock().locked()
held = threading.Lock()
held.acquire()
assert held.acquire(timeout=0.05) is False
assert held.acquire(False) is False
held.release()
try:
    held.release()
except RuntimeError:
    pass
else:
    raise AssertionError("released twice")

condition = threading.Condition()
with condition:
    assert condition.wait(0.01) is False
items = queue.Queue()
threading.Timer(0.01, items.put, (1,)).start()
assert items.get(timeout=5) == 1

async def main():
    lock = asyncio.Lock()
    async def holds():
        async with lock:
            await asyncio.sleep(0.1)
    async def waits_too():
        async with lock:
            pass
    await asyncio.gather(holds(), waits_too())
asyncio.run(main())

for (stack, labels), (count, delay) in contention.profile().samples.items():
    for frame in stack:
        if frame.function.endswith(("waits", "waits_too")):
            print(frame.function, count, round(delay / 1e9, 2))
"""


def test_only_who_waited_is_noted_with_how_long() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert set(rows) == {"waits", "main.<locals>.waits_too"}
    assert rows["waits"][0] == "2"  # two locks, one place
    assert 0.15 < float(rows["waits"][1]) < 5
    assert 0.08 < float(rows["main.<locals>.waits_too"][1]) < 5
