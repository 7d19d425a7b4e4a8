"""The kinds of balancers that configuration is made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sessionha.balancers.base import Balancer
from sessionha.balancers.envoy import Envoy
from sessionha.balancers.haproxy import HAProxy
from sessionha.balancers.nginx import Nginx

KINDS: Final[Mapping[str, Balancer]] = {
    "nginx": Nginx(),
    "haproxy": HAProxy(),
    "envoy": Envoy(),
}
