"""The language of a text, by py3langid's own model."""

CHARACTERS = 4096
"""As much of a text as is looked at."""


def language_of(text: str) -> str:
    """The ISO 639-1 code of the language in which the beginning of `text` is most likely written."""
    import py3langid

    return str(py3langid.classify(text[:CHARACTERS])[0])
