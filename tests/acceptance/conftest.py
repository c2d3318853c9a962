"""A cluster of real processes for each test."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.cluster import Cluster

MakeCluster = Callable[..., Cluster]


@pytest.fixture
async def make_cluster(tmp_path: Path) -> AsyncIterator[MakeCluster]:
    """Make a cluster with these settings; nothing runs in it yet but its nats-server."""
    made: list[Cluster] = []
    async with aiohttp.ClientSession() as http:

        def make(**settings: object) -> Cluster:
            cluster = Cluster(tmp_path, http, **settings)
            cluster.nats.start()
            made.append(cluster)
            return cluster

        yield make
        for cluster in made:
            await cluster.close()
