"""Settings that the page's events share."""

from __future__ import annotations

from typing import Any

# What takes no time neither waits behind answers nor is refused where too many wait. Messages need the queue, though.
LIGHT: dict[str, Any] = {"api_visibility": "private", "queue": False}
QUIET: dict[str, Any] = {**LIGHT, "show_progress": "hidden"}
