"""What is left in the account is listed, and taken away: that of the sessions that are named."""

import sys

from bigmachine.systems.ec2.reaping import leftovers, reap, regions

here = "us-east-1"
print("REGIONS", here in regions(), flush=True)
for each in leftovers([here, "eu-central-1"]):
    print("LEFT", each.kind, each.state, each.session, each.region, each, flush=True)
for is_dry in (True, False):
    for each in reap([here], sys.argv[1:], dry_run=is_dry):
        print("WOULD" if is_dry else "REAPED", each.kind, each.id, flush=True)
