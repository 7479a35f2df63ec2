"""`python -m bigmachine`: the command line."""

import sys

from bigmachine.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
