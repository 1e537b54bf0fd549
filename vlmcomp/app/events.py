"""Options that events of the page share."""

from __future__ import annotations

from typing import Any

# Events that take no time neither wait behind answers nor fail when the queue is full. Messages need the queue, though.
UNQUEUED: dict[str, Any] = {"api_visibility": "private", "queue": False}
NO_PROGRESS: dict[str, Any] = {**UNQUEUED, "show_progress": "hidden"}
