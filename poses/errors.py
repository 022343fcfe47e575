"""One family of errors: what a user did wrong, told in four parts."""


class EdgeliftError(Exception):
    """A mistake in what the user gave; the command line prints it and exits with code 2.

    subject: what was looked at (a file, a flag, a joint count); received and expected: facts; remedy: what to do.
    """

    def __init__(self, subject: str, received: str, expected: str, remedy: str) -> None:
        super().__init__(f"{subject}: received {received}; expected {expected}. {remedy}")
        self.subject = subject
        self.received = received
        self.expected = expected
        self.remedy = remedy


def missing_extra(module: str, extra: str) -> EdgeliftError:
    """Return the error for an optional dependency that is not installed, with the pip line that installs it."""
    return EdgeliftError(
        f"module {module}", "no such module", "an installed package", f"Run: pip install 'edgelift[{extra}]'"
    )
