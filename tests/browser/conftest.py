"""Keeps a plain ``pytest`` out of this folder: it needs Chromium and the extra ``browser``. ``make test-browser``."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("LRO_BROWSER_TESTS") == "1" else ["test_*.py"]
