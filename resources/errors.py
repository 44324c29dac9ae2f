"""The errors that a user can mend: each message says what was wrong, where, and what to do.

Belongs here: exception types that the command line prints as one line, how it prints them. Does not: handling them.
"""


class DomainGapError(Exception):
    """Base of every error whose message is written for the user."""


class ConfigError(DomainGapError):
    """`gap.yaml` (or what it names) can't be used as it stands; exit code 2."""


class DatasetError(DomainGapError):
    """A data set's folder does not look as its reader expects; exit code 2."""


class UnreadableSample(DomainGapError):
    """One picture or mask can't be used; the sample is quarantined with this message as its reason."""


class ModelError(DomainGapError):
    """A model can't be built, or a checkpoint does not fit it; exit code 2."""


def printable(text: str) -> str:
    """A text without control characters: a file's name may hold what moves a terminal's cursor."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
