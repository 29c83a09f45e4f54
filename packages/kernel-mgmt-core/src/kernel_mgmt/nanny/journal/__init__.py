"""The journal: every message that a kernel sends, numbered and kept for those who were not there.

:mod:`.records` is the format, in memory, on the wire and on disk alike.
"""
