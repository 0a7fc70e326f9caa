"""`python -m brain_tumor` is the command `brain_tumor`, where that is not on the path."""

import sys

from brain_tumor.cli import main

if __name__ == "__main__":
    sys.exit(main())
