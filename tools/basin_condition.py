#!/usr/bin/env python3
"""When does averaging fail, and what could have told? `--help` says how."""

import sys

from wash_hpc.report.basin_condition import main

if __name__ == "__main__":
    sys.exit(main())
