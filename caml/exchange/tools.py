"""Tools as text: how a model that knows nothing but chat templates is told of tools, and calls them.

In the format that Qwen's models are trained on (Hermes, github.com/NousResearch/Hermes-Function-Calling): the tools
stand in the system's turn as JSON between <tools> and </tools>, a call is JSON between <tool_call> and </tool_call>,
and what came of it is a user's turn between <tool_response> and </tool_response>.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageTool
from inspect_ai.model._call_tools import parse_tool_call, tool_parse_error_message
from inspect_ai.tool import ToolCall, ToolInfo

from caml.data.sources import Message

CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


def as_turns(messages: Sequence[ChatMessage], tools: Sequence[ToolInfo]) -> list[Message]:
    """A conversation in turns of system, user and assistant, the `tools` in the first."""
    turns: list[Message] = []
    for message in messages:
        if isinstance(message, ChatMessageTool):
            answer = f"Error: {message.error.message}" if message.error else message.text
            told = f"<tool_response>\n{answer}\n</tool_response>"
            if turns and turns[-1]["content"].endswith("</tool_response>"):  # of several calls in one turn
                turns[-1] = {"role": "user", "content": f"{turns[-1]['content']}\n{told}"}
            else:
                turns.append({"role": "user", "content": told})
        elif isinstance(message, ChatMessageAssistant) and message.tool_calls:
            calls = (_block("tool_call", _call(call)) for call in message.tool_calls)
            turns.append({"role": "assistant", "content": "\n".join([*filter(None, [message.text]), *calls])})
        else:
            turns.append({"role": message.role, "content": message.text})
    if tools:
        system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else ""
        turns.insert(0, {"role": "system", "content": "\n\n".join(filter(None, [system, told_of(tools)]))})
    return turns


def told_of(tools: Sequence[ToolInfo]) -> str:
    """The tools, and how one is called, for the system's turn."""
    listed = "\n".join(
        json.dumps(
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters.model_dump(exclude_none=True),
                },
            },
            ensure_ascii=False,
        )
        for tool in tools
    )
    return (
        f"You have these tools:\n{_block('tools', listed)}\nTo call one, write its name and arguments as JSON:\n"
        + _block("tool_call", '{"name": NAME, "arguments": ARGUMENTS}')
    )


def parsed(text: str, tools: Sequence[ToolInfo]) -> tuple[str, list[ToolCall]]:
    """What an answer says beside its calls, and the calls; one that cannot be read says why, for the model to see."""
    calls = [_read(block, number, tools) for number, block in enumerate(CALL.findall(text))]
    return (CALL.sub("", text).strip() if calls else text), calls


def _read(block: str, number: int, tools: Sequence[ToolInfo]) -> ToolCall:
    try:
        said: Any = json.loads(block)
        if not isinstance(said, dict) or not isinstance(said.get("name"), str):
            raise ValueError("a call is JSON with a name and arguments")
        arguments = said.get("arguments", {})
        return parse_tool_call(f"call_{number}", said["name"], json.dumps(arguments), list(tools))
    except ValueError as error:
        wrong = tool_parse_error_message(block, error)
        return ToolCall(id=f"call_{number}", function="unknown", arguments={}, parse_error=wrong)


def _call(call: ToolCall) -> str:
    return json.dumps({"name": call.function, "arguments": call.arguments}, ensure_ascii=False)


def _block(tag: str, content: str) -> str:
    return f"<{tag}>\n{content}\n</{tag}>"
