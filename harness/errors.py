"""Errors that are the user's to mend: one clear message with the way out, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend. `hint` says how. Exit code 2."""

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class DataError(UserError):
    """A dataset that cannot be read: the message names the file and the row or key."""


class RowError(DataError):
    """One row that cannot be read, while others can: `--on-bad-row skip` leaves it out. Names file and row."""


class SpecError(UserError):
    """A YAML that does not validate: the message names file:line and the key."""


class ModelError(UserError):
    """A model that cannot be loaded."""


class RunError(UserError):
    """A run folder that cannot be used."""


class JudgeError(UserError):
    """A judge that cannot go on. Verdicts so far are kept."""

    exit_code = 1


class RanksError(RunError):
    """A run that went wrong while it ran: rows without an answer, ranks that do not work on the same thing."""

    exit_code = 1


class Terminated(BaseException):
    """A signal asked this process to end, and what it had done so far is kept. Exit code 128 + `signum`.

    Like a KeyboardInterrupt it is no Exception: nothing but the command line answers it.
    """

    def __init__(self, signum: int, kept: str = "") -> None:
        super().__init__(signum)
        self.signum, self.kept = signum, kept
