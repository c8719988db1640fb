"""Keeps a plain ``pytest`` out of this folder: it needs Chromium and the extra ``browser``. ``make test-browser``."""

from __future__ import annotations

import os

if os.environ.get("LRO_BROWSER_TESTS") == "1":
    from tests.browser.form import airflow, browser, page, settings  # noqa: F401  (fixtures)

    collect_ignore_glob = []
else:
    collect_ignore_glob = ["test_*.py"]
