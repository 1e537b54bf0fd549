"""Settings that the page's events share."""

from __future__ import annotations

from typing import Any

# What takes no time neither waits behind answers nor is refused where too many wait. Messages need the queue, though.
UNQUEUED: dict[str, Any] = {"api_visibility": "private", "queue": False}
NO_PROGRESS: dict[str, Any] = {**UNQUEUED, "show_progress": "hidden"}
