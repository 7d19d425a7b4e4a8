"""Values and elements: the typed codec, and the data managers that change and merge them.

For applications with data managers of their own: `DataManager`, `register`, `Applied`, `ABSENT`.
"""

from sessionha.values.managers import DataManager, register
from sessionha.values.operations import ABSENT, Applied

__all__ = ["ABSENT", "Applied", "DataManager", "register"]
