"""How rows of other people's data sets become documents, and what is said of those that do not fit."""

import math

import pytest

from caml.config.errors import Invalid
from caml.data.corpora.schemas import (
    Chosen,
    Completion,
    Either,
    Instruction,
    Messages,
    Misfit,
    Rated,
    Template,
    Text,
)
from caml.data.sources import Preference

ASKED = {"role": "user", "content": "why?"}
SAID = {"role": "assistant", "content": "so"}
WORSE = {"role": "assistant", "content": "no"}
EMPTY = {"role": "assistant", "content": " \n"}
RATED = {"prompt": "why?", "response_1": "so", "response_2": "no", "preference_strength": 1}


def test_text_and_templates_of_columns():
    row = {"title": "A day", "body": "It rained.", "n": 3}
    assert Text("body").document(row) == "It rained."
    assert Template("{title}\n\n{body} {title}").document(row) == "A day\n\nIt rained. A day"
    assert Template("{title}\n\n{body} {title}").columns == ("title", "body")
    assert Template("{title}: {body}").document({"title": "", "body": ""}) == ""


@pytest.mark.parametrize(
    "text", ["no column", "{}", "{title", "{title.upper}", "{0}", "{a:d}", "{a!x}", "{a!r}"]
)
def test_a_template_without_columns_is_refused(text):
    with pytest.raises(Invalid, match="text"):
        Template(text)


def test_conversations_in_the_schemas_of_the_field():
    alpaca = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    dolly = {"instruction": "Add.", "context": "", "response": "3", "category": "qa"}
    assert Instruction().document(alpaca) == [
        {"role": "user", "content": "Add.\n\n1 and 2"},
        {"role": "assistant", "content": "3"},
    ]
    assert Instruction(input="context", output="response").document(dolly)[0]["content"] == "Add."
    assert Instruction().document({**alpaca, "input": None})[0]["content"] == "Add."
    assert Instruction(input="").columns == ("instruction", "output")
    assert Completion("problem", "solution").document({"problem": "why?", "solution": "so"}) == [ASKED, SAID]
    assert Messages().document({"messages": [ASKED, SAID]}) == [ASKED, SAID]
    shares = {"conversations": [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so"}]}
    share = Messages("conversations", "from", "value", {"human": "user", "gpt": "assistant"})
    assert share.document(shares) == [ASKED, SAID]
    columns = {"messages": {"role": ["user", "assistant"], "content": ["why?", "so"]}}
    assert Messages().document(columns) == [ASKED, SAID]


def test_conversations_and_text_in_one_corpus():
    assert Either().document({"text": "", "messages": [ASKED, SAID]}) == [ASKED, SAID]
    assert Either().document({"text": "so", "messages": []}) == "so"
    assert Either().document({"text": "so", "messages": {"role": [], "content": []}}) == "so"


def test_pairs_as_text_as_messages_and_with_the_prompt_inside():
    wanted = Preference([ASKED], [SAID], [WORSE])
    assert Chosen().document({"prompt": "why?", "chosen": "so", "rejected": "no"}) == wanted
    whole = {"prompt": "why?", "chosen": [ASKED, SAID], "rejected": [ASKED, WORSE]}
    assert Chosen().document(whole) == wanted
    assert Chosen(prompt="").document(whole) == wanted
    longer = {"chosen": [ASKED, SAID, ASKED, SAID], "rejected": [ASKED, SAID, ASKED, WORSE]}
    assert Chosen(prompt="").document(longer) == Preference([ASKED, SAID, ASKED], [SAID], [WORSE])


def test_the_better_of_two_rated_answers_is_chosen():
    row = {"prompt": "why?", "response_1": "so", "response_2": "no", "preference_strength": -2}
    assert Rated().document(row) == Preference([ASKED], [SAID], [WORSE])
    assert Rated().document({**row, "preference_strength": 1}) == Preference([ASKED], [WORSE], [SAID])
    assert Rated().document({**row, "preference_strength": 0}) == ""
    assert Rated(least=3).document(row) == ""


def test_the_turns_of_a_prompt_that_is_one_text():
    prompt = "hello\n<extra_id_1>Assistant\nhi\nyou\n<extra_id_1>User\nwhy?"
    row = {"prompt": prompt, "response_1": "so", "response_2": "no", "preference_strength": -1}
    assert Rated(mark="<extra_id_1>").document(row).prompt == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi\nyou"},
        ASKED,
    ]
    row["prompt"] = "<extra_id_1>User\nwhy?"  # the first speaker is marked too
    assert Rated(mark="<extra_id_1>").document(row).prompt == [ASKED]


@pytest.mark.parametrize(
    "schema, row, says",
    [
        (Text(), {"body": "x"}, "no column 'text'; there are body"),
        (Text(), {"text": 3}, "'text' holds int 3, not text"),
        (Text(), {"text": None}, "'text' holds nothing, not text"),
        (Template("{a}"), {}, "no column 'a'"),
        (Messages(), {"messages": "hi"}, "'messages' holds the text 'hi', not a list of messages"),
        (Messages(), {"messages": []}, "an empty list"),
        (Messages(), {"messages": [{"role": "user"}]}, "a dictionary, not messages with text in 'content'"),
        (Messages(), {"messages": [{**SAID, "role": "critic"}]}, "the role 'critic'"),
        (Messages(), {"messages": [ASKED]}, "no message of the assistant's"),
        (Instruction(), {"instruction": " ", "input": "", "output": "x"}, "'instruction' is empty"),
        (Instruction(), {"instruction": "x", "input": "", "output": ""}, "'output' is empty"),
        (Completion(), {"prompt": "x"}, "no column 'completion'"),
        (Completion(), {"prompt": "x", "completion": " "}, "'completion' is empty"),
        (Messages(), {"messages": [ASKED, EMPTY]}, "'messages' has an empty answer"),
        (Messages(), {"messages": [ASKED, EMPTY, ASKED, SAID]}, "'messages' has an empty answer"),
        (Either(), {"text": "x", "messages": [ASKED, EMPTY]}, "'messages' has an empty answer"),
        (Chosen(), {"prompt": "x", "chosen": [EMPTY], "rejected": "a"}, "'chosen' has an empty answer"),
        (Chosen(), {"prompt": "x", "chosen": "a", "rejected": " "}, "'rejected' is empty"),
        (Rated(), {**RATED, "response_2": "so"}, "'response_1' and 'response_2' are the same"),
        (Rated(), {**RATED, "response_2": ""}, "'response_2' is empty"),
        (
            Rated(mark="<x>"),
            {**RATED, "prompt": "a\n<x>System\nb\n<x>User\nc"},
            "'prompt' has the mark '<x>System'",
        ),
        (Rated(mark="<x>"), {**RATED, "prompt": "<x>System\nb"}, "'prompt' has the mark '<x>System'"),
        (Rated(mark="<x>"), {**RATED, "prompt": "a\n<x>Assistant\n\n<x>User\nc"}, "an empty answer"),
        (Chosen(), {"prompt": "x", "chosen": "a", "rejected": "a"}, "are the same"),
        (Chosen(), {"prompt": "x", "chosen": [ASKED], "rejected": "a"}, "does not end with an answer"),
        (Chosen(prompt=""), {"chosen": [SAID], "rejected": [WORSE]}, "no prompt"),
        (
            Rated(),
            {"prompt": "x", "response_1": "a", "response_2": "b", "preference_strength": "2"},
            "'preference_strength' holds the text '2', not a number",
        ),
        *(
            (
                Rated(),
                {"prompt": "x", "response_1": "a", "response_2": "b", "preference_strength": strength},
                f"'preference_strength' holds '{str(strength)[:30]}', not a finite number",
            )
            for strength in (math.nan, -math.inf, 10**400)
        ),
    ],
)
def test_a_row_of_another_schema_is_told_from_what_was_wanted(schema, row, says):
    with pytest.raises(Misfit) as misfit:
        schema.document(row)
    assert says in str(misfit.value)


def test_roles_are_given_roles_of_ours():
    with pytest.raises(Invalid, match="'boss' is no role"):
        Messages(roles={"human": "boss"})
    with pytest.raises(Invalid, match="least"):
        Rated(least=0.0)
