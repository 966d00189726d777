"""The chat templates: their text, and what bears loss."""

import pytest

from caml.config.errors import UserError
from caml.data.chat import TEMPLATES, prompt, render

TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi there"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "so long"},
]


def text(pieces):
    return "".join(piece for piece, _ in pieces)


def test_chatml_is_as_published():
    assert text(render(TALK, "chatml")) == (
        "<|im_start|>system\nbe brief<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nhi there<|im_end|>\n"
        "<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\nso long<|im_end|>\n"
    )


def test_plain_has_no_marks_of_chatml():
    assert text(render(TALK, "plain")) == (
        "System: be brief\nUser: hello\nAssistant: hi there<|endoftext|>"
        "User: bye\nAssistant: so long<|endoftext|>"
    )


@pytest.mark.parametrize(
    "template, end, lead", [("chatml", "<|im_end|>", ""), ("plain", "<|endoftext|>", " ")]
)
def test_only_what_the_assistant_says_bears_loss(template, end, lead):
    bearing = [piece for piece, bears in render(TALK, template) if bears]
    assert bearing == [f"{lead}hi there", end, f"{lead}so long", end]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_is_the_conversation_up_to_the_answer(template):
    asked, answered = prompt(TALK[:2], template), render(TALK[:3], template)
    assert answered[: len(asked)] == asked
    assert answered[len(asked)][1]


def test_an_unknown_role_is_named():
    with pytest.raises(UserError, match="'critic'"):
        render([{"role": "critic", "content": "no"}], "chatml")
