"""What a bearer token adds to the CPU time of a poll, against the same poll without one; both over TLS.

Two simulators in processes of their own, one aio client each, rounds in turn. Counts the CPU time of this process
alone: what a triggerer pays. Prints the medians and their ratio.

    python benchmarks/token_cost.py [--rounds 15] [--polls 400]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import trustme

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from airflow_provider_lro._transport.channel import ChannelConfig
from airflow_provider_lro._transport.client import AsyncOperationsClient
from airflow_provider_lro._transport.credentials import CredentialsConfig
from airflow_provider_lro.simulator import operation_name
from tests.simulator_fixture import running_simulator

TOKEN = "t" * 1024
"""As long as those of Google's token service may be; what they are in practice is shorter."""
NAME = operation_name("poll", outcome="never")
LIMIT = 1.35


async def measure(client: AsyncOperationsClient, polls: int) -> float:
    """Return the microseconds of CPU time that a poll took."""
    start = time.process_time()
    for _ in range(polls):
        await client.get_operation(NAME)
    return (time.process_time() - start) / polls * 1e6


async def compare(
    endpoints: dict[str, str], trusted: bytes, *, rounds: int, polls: int
) -> tuple[list[float], list[float]]:
    """Measure both in turn; the first round of each only warms up."""
    credentials = {"without": CredentialsConfig(anonymous=True), "with": CredentialsConfig(token=TOKEN)}
    figures: dict[str, list[float]] = {"without": [], "with": []}
    async with AsyncExitStack() as stack:
        clients = {}
        for kind, endpoint in endpoints.items():
            config = ChannelConfig(target=endpoint, credentials=credentials[kind], root_certificates=trusted)
            clients[kind] = await stack.enter_async_context(AsyncOperationsClient(config))
        for number in range(-1, rounds):
            # Who goes first alternates: neither gets the quieter half of each round.
            for kind in sorted(clients, reverse=number % 2 == 0):
                took = await measure(clients[kind], polls)
                if number >= 0:
                    figures[kind].append(took)
    return figures["without"], figures["with"]


def main() -> None:
    """Measure, print, and check the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--polls", type=int, default=400)
    arguments = parser.parse_args()
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    with tempfile.TemporaryDirectory() as directory:
        leaf.private_key_and_cert_chain_pem.write_to_path(f"{directory}/leaf.pem")
        tls = ("--tls-cert", f"{directory}/leaf.pem", "--tls-key", f"{directory}/leaf.pem")
        with running_simulator(*tls) as open_to_all, running_simulator(*tls, "--token", TOKEN) as guarded:
            endpoints = {"without": open_to_all.endpoint, "with": guarded.endpoint}
            without, given = asyncio.run(
                compare(endpoints, authority.cert_pem.bytes(), rounds=arguments.rounds, polls=arguments.polls)
            )
    for label, figures in (("without a token", without), ("with a token", given)):
        spread = f"{min(figures):.0f} to {max(figures):.0f}"
        print(f"{label:<16} median {statistics.median(figures):6.0f} µs a poll  ({spread}, {len(figures)} rounds)")
    ratio = statistics.median(given) / statistics.median(without)
    print(f"ratio {ratio:.2f}, at most {LIMIT} is allowed; {arguments.polls} polls a round")
    assert ratio <= LIMIT


if __name__ == "__main__":
    main()
