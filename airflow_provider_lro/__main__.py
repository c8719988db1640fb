# PYTHON_ARGCOMPLETE_OK
"""``python -m airflow_provider_lro``: what ``airflow lro`` does, on every version of Airflow. Floor 3."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import argcomplete

from airflow_provider_lro.cli import build_parser

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; leaves by SystemExit, with its exit code."""
    parser = build_parser()
    argcomplete.autocomplete(parser)
    args = parser.parse_args(argv)
    try:
        args.func(args)
    except KeyboardInterrupt:  # while Airflow is being loaded
        sys.exit(130)


if __name__ == "__main__":
    main()
