"""The administration of a node."""
