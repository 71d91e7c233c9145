#!/usr/bin/env python3
"""Show finished runs side by side, or follow runs that are going; `--help` says how."""

import sys

from wash_hpc.report.summarize import main

if __name__ == "__main__":
    sys.exit(main())
