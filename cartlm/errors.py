"""A user's mistake: one line that names the value and the command to type next."""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""The errno of a full disk, file limit or quota."""


class UserError(Exception):
    """What went wrong and what to type next, without a traceback.

    `message` names the offending value, `hint` the next command. Stages and the
    command line print both on one line and exit with code 2.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = " ".join(str(message).split())
        self.hint = hint
        super().__init__(f"{self.message}; {hint}" if hint else self.message)
