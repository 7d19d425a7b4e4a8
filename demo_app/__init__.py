"""A small shop on three servers that can be killed, and a check that loses nothing by it."""
