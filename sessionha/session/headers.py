"""Names of the headers that nodes, routers and clients of the data API say to each other."""

from typing import Final

RETRY: Final = "sessionha-retry"
"""On a 503 of a node."""

ELSEWHERE: Final = "elsewhere"
"""Value of `RETRY`: not here, not now; another member may answer this request."""

IF_REPEATABLE: Final = "elsewhere-if-repeatable"
"""The same for a request whose change may last all the same: only where repeating does no harm."""

TOKEN: Final = "sessionha-token"
"""The sessions of a client that keeps no cookies, in both directions (`session.tokens`)."""

ROUTE: Final = "sessionha-route"
"""What the route cookie says, to and from such a client."""

HOPS: Final = "sessionha-hops"
"""How many routers a request has passed."""

COPIES: Final = "sessionha-copies"
"""How many other nodes acknowledged the change, when it is fewer than there should be."""

SESSION: Final = "sessionha-session"
"""The session's ID, from a client of the data API: the proof that it may use the session."""

VIRTUAL_SERVER: Final = "sessionha-virtual-server"
"""The virtual server of that session, where it is not the node's own."""

POSITION: Final = "sessionha-position"
"""Where the session's group is; a client that sends it back is served nothing older."""
