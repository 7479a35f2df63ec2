"""A machine that can be reached again is called by a new connection; the old one is mute for seconds more."""

from __future__ import annotations

import time

from tests.labs.ssh.lab import Lab

#: Alone, the driver's retransmissions come 0.2, 0.4, 0.8 ... s after one another: the last one at about 6.3 s, the next
#: at 12.7 s. The machine begins to speak shortly before it is over, so that it is heard at once.
PAUSE, PARTITION = 6.3, 7.0
SOON = 3.0


def test_a_machine_that_is_heard_again_is_not_called_by_the_connection_that_does_not_carry_yet(lab: Lab) -> None:
    driver = lab.drive("speaker.py", str(PAUSE), hosts="lab@{1}")
    driver.expect("LISTENING")
    lab.netlab("drop", "1")
    driver.tell()
    time.sleep(PARTITION)
    lab.netlab("heal", "1")
    driver.tell()
    took = float(driver.expect("AFTER").split()[1])
    outcome = driver.wait()
    assert outcome.status == 0, outcome.err
    assert took < SOON
