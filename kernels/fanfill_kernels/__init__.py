"""How fanfill's values are made: pure functions from counter-based words to values, and loops that write
them.

Nothing here knows shapes, seeds, initializers or threads; see ``fanfill`` for those and ``docs/stream.md``
for the number contract that every function here implements.
"""

__version__ = "0.1.0"

# The version of the number contract: as long as it stays, so does every bit.
STREAM_VERSION = 2
