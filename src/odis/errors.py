"""Errors a user can act on. The command line prints them as one line and exits with code 2."""


def printable(text: str) -> str:
    """Text for a terminal, in one line: what is no character to look at (line ends, escape codes, bytes of a
    name that is not UTF-8) is shown as Python writes it, `\\n`.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class OdisError(Exception):
    """Something the user gave is wrong: the message says what, where, and what is allowed."""


class ConfigError(OdisError):
    """An unknown, ill-typed or contradictory setting; the message begins with its dotted name."""


class DataError(OdisError):
    """An image, annotation or index that cannot be used; the message names the file."""


class UnreachableError(OdisError):
    """A store of images that does not answer, or may not be read. Not a fault of one image, which could be
    left out: the work ends, and can go on from its last state.
    """


class WorkerError(OdisError, RuntimeError):
    """A process that reads data was killed; what torch raises then is a `RuntimeError`, so this is one
    too.
    """


class Preempted(KeyboardInterrupt):
    """SIGUSR1 stopped a run, whose state is saved: its time on a cluster is up. The same command resumes."""


class OdisWarning(UserWarning):
    """Something that a user may want to mend, and that work goes on without; the command line shows the
    message alone.
    """
