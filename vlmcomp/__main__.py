"""``python -m vlmcomp``."""

from vlmcomp.cli.main import main

raise SystemExit(main())
