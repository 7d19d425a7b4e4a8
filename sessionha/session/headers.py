"""Names of the headers that nodes and routers say to each other."""

from typing import Final

RETRY: Final = "sessionha-retry"
"""On a 503 of a node."""

ELSEWHERE: Final = "elsewhere"
"""Value of `RETRY`: not here, not now; another member may answer this request."""

COPIES: Final = "sessionha-copies"
"""How many other nodes acknowledged the change, when it is fewer than there should be."""
