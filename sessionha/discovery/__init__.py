"""Where a cluster's nodes are when nobody wrote them down: DNS and Redis, asked again and again."""
