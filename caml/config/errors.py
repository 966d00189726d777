"""The two ways in which a command ends badly, and the check that a configured value is possible."""


class UserError(Exception):
    """A mistake of the user's: one line that names the place and what would be right. Exit status 2."""


class Refused(UserError):
    """Data that are refused as they stand: what mends it makes other data of them, so nothing begun is of use."""


class Failure(Exception):
    """Something broke that the user did not do (a full disk, a lost file). One line. Exit status 1."""


class Invalid(ValueError):
    """An impossible value in a field of a configured dataclass.

    Raised from `__post_init__`; `caml.config` adds the file and line that set the value and makes a
    `UserError` of it. Of fields that are impossible together, each in `fields`, that of the user's own is named.
    """

    def __init__(self, message: str, *fields: str):
        super().__init__(f"{' and '.join(fields)}: {message}")
        self.message = message
        self.fields = fields


def require(condition: bool, field: str, message: str, *beside: str) -> None:
    """Raise `Invalid` for `field` unless `condition` holds; `message` says what would be right.

    `beside`: other fields without which `field` would be possible.
    """
    if not condition:
        raise Invalid(message, field, *beside)
