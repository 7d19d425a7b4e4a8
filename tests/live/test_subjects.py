"""Log out everywhere, with real processes."""

from __future__ import annotations

import aiohttp

from tests.live.clients import Browser
from tests.live.cluster import Cluster
from tests.live.test_restarts import served


async def test_log_out_everywhere_ends_also_what_only_dead_servers_hold(
    http: aiohttp.ClientSession,
) -> None:
    """contract G6: a user's sessions are listed from any server. Both holders of one are killed,
    and it is not listed, which the answer says; the log-out holds for it when they are back."""
    async with Cluster(3, forget_after="2min", consistency="available") as cluster:
        devices = {name: Browser(http) for name in cluster.names}
        for name, device in devices.items():
            await device.post(f"{cluster[name].url}/log-in", user="ada")
        other = Browser(http)
        await other.post(f"{cluster['n2'].url}/log-in", user="bob")

        lost = devices["n1"]
        third = next(name for name in cluster.names if name not in lost.route.servers)
        asking = devices[third]
        answer = await asking.get(f"{cluster[third].url}/devices")
        assert answer["unreachable"] == []
        assert {each["node"] for each in answer["sessions"]} == set(cluster.names)
        assert [each["node"] for each in answer["sessions"] if each["current"]] == [third]

        dead = lost.route.servers
        await cluster.kill(*dead)
        answer = await asking.post(f"{cluster[third].url}/log-out-everywhere")
        assert answer.status == 200
        assert answer["unreachable"] == sorted(dead)
        assert answer["ended"] < len(devices)

        await cluster.start(*dead)
        for name in cluster.names:
            for device in devices.values():
                # A cookie of its own: what one server says must not help the next.
                assert await served(cluster, device.copy(), name) == {}
            assert await served(cluster, other, name) == {"user": "bob"}
        again = Browser(http)
        await again.post(f"{cluster['n1'].url}/log-in", user="ada")
        answer = await again.get(f"{cluster['n3'].url}/devices")
        assert len(answer["sessions"]) == 1
