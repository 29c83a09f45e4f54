"""From the messages of a kernel to a notebook of what ran and what it put out; nothing is read or written.

- ``transcript``: which messages belong to which cell;
- ``cells``: a cell, and what becomes of its outputs;
- ``values``: what a kernel sent, as the format of notebooks has it.

Source: *The Notebook file format*, version 4.5.
"""

from .transcript import Transcript

__all__ = ["Transcript"]
