"""Administration of a node: metrics, status, and who may ask for them."""
