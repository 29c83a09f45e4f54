"""The journal: every message that a kernel sends, numbered and kept for those who were not there.

:mod:`.records` is the format, in memory, on the wire and on disk alike.  :mod:`.store` has what is
newest in memory (:mod:`.tail`), from where a thread (:mod:`.writer`) puts it into files of bounded
size (:mod:`.spool`).
"""
