"""Errors that the command lines print as a message, without a traceback."""


class CasesFailed(RuntimeError):
    """Some cases of a batch failed; the message lists each with its reason, and the others are done."""
