"""``python -m vlmcomp``."""

from vlmcomp.cli import main

raise SystemExit(main())
