"""The memory of a node: the store protocol, LMDB in shared memory, and one in the process."""

from sessionha.store.base import Reader, Store, Usage, Writer
from sessionha.store.lmdb import LMDBStore
from sessionha.store.locks import is_alive
from sessionha.store.memory import Memory, MemoryStore
from sessionha.store.place import choose, durable

__all__ = [
    "LMDBStore",
    "Memory",
    "MemoryStore",
    "Reader",
    "Store",
    "Usage",
    "Writer",
    "choose",
    "durable",
    "is_alive",
]
