"""The one exception whose message is written for the user."""


class PrologueError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do."""
