#!/usr/bin/env python3
"""Run the study: `python run_all.py --profile smoke|laptop|study|... [--data FOLDER]`; see
`--help` and the README.
"""

import sys

from s3e.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
