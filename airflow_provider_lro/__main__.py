"""``python -m airflow_provider_lro``: the commands of ``airflow lro``, on every version of Airflow."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from airflow_provider_lro.cli import build_parser
from airflow_provider_lro.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; leave by SystemExit, with its exit code."""
    args = build_parser().parse_args(argv)
    try:
        args.func(args)
    except KeyboardInterrupt:  # while Airflow is being loaded
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
