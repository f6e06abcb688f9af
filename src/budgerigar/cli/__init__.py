"""The command line: thin commands over the same verbs that Python has.

Nothing heavy is imported before a command needs it, so that help is instant.
"""

from budgerigar.cli.root import app, main

__all__ = ["app", "main"]
