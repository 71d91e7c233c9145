#!/usr/bin/env python3
"""Look at the loss between a finished run's members; `--help` says how."""

import sys

from wash_hpc.landscape import main

if __name__ == "__main__":
    sys.exit(main())
