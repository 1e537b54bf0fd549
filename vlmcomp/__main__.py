"""``python -m vlmcomp``."""

import sys

from vlmcomp.cli import main

if __name__ == "__main__":
    sys.exit(main())
