"""What real load balancers are told of a cluster: one document, and configuration made from it."""
