"""The two ways in which a command ends badly, and the check that a configured value is possible."""


class UserError(Exception):
    """A mistake of the user's: one line that names the place and what would be right. Exit status 2."""


class Failure(Exception):
    """Something broke that the user did not do (a full disk, a lost file). One line. Exit status 1."""


class Invalid(ValueError):
    """An impossible value in a field of a configured dataclass.

    Raised from `__post_init__`; `caml.config` adds the file and line that set the value and makes a
    `UserError` of it.
    """

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def require(condition: bool, field: str, message: str) -> None:
    """Raise `Invalid` for `field` unless `condition` holds; `message` says what would be right."""
    if not condition:
        raise Invalid(field, message)
