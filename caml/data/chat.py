"""The chat templates: how a conversation is written as text, and which of its text bears loss."""

from collections.abc import Sequence

from caml.config.errors import UserError
from caml.data.sources import Message

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)
"""Reserved in every tokenizer, with the first ids; the first is also padding."""

TEMPLATES = ("chatml", "plain")
"""`chatml` marks turns by special tokens; `plain` names the speaker instead, as a changed format to test."""

ROLES = ("system", "user", "assistant")
SPEAKERS = {"system": "System:", "user": "User:", "assistant": "Assistant:"}
TEMPLATE_WORDS = (*ROLES, *SPEAKERS.values())
"""Words that templates write: a tokenizer of words holds them whatever it was trained on."""


def render(messages: Sequence[Message], template: str) -> list[tuple[str, bool]]:
    """The text of a conversation as pieces, each with whether it bears loss in fine-tuning.

    Pieces are tokenized apart, so that an answer has the same tokens in training as after `prompt`;
    special tokens stand as pieces of their own. What bears loss is what the assistant has to produce: its
    content and the token that ends its turn. Raises UserError for an unknown role.
    """
    pieces: list[tuple[str, bool]] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise UserError(f"a message has the role {role!r}; a role is one of {', '.join(ROLES)}")
        answer = role == "assistant"
        if template == "chatml":
            inner = [(f"{role}\n", False), (content, True)] if answer else [(f"{role}\n{content}", False)]
            pieces += [(START_OF_TURN, False), *inner, (END_OF_TURN, answer), ("\n", False)]
        elif answer:
            pieces += [(SPEAKERS[role], False), (f" {content}", True), (END_OF_TEXT, True)]
        else:
            pieces.append((f"{SPEAKERS[role]} {content}\n", False))
    return pieces


def prompt(messages: Sequence[Message], template: str) -> list[tuple[str, bool]]:
    """The pieces of a conversation up to where the assistant is to speak next."""
    if template == "chatml":
        return [*render(messages, template), (START_OF_TURN, False), ("assistant\n", False)]
    return [*render(messages, template), (SPEAKERS["assistant"], False)]
