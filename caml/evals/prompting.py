"""Prompts as people write them: a line of text, a question in a chat, or a file of either."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from caml.config.errors import UserError
from caml.data.chat import END_OF_TEXT, ROLES
from caml.data.sources import Message, unwritable
from caml.evals.checkpoint import Checkpoint
from caml.evals.generation import ROWS, Answer, Generator, Sampling

Prompt = str | Sequence[Message]
"""Text that is to be continued, or a conversation in which the assistant is to speak next."""


@dataclass(frozen=True)
class Asked:
    """A prompt, and what it was answered."""

    prompt: Prompt
    answer: Answer

    def row(self) -> dict[str, Any]:
        """As a row of JSONL: `prompt` or `messages`, `answer`, `reason`, `tokens`, and `log_prob` of these (nats)."""
        key = "prompt" if isinstance(self.prompt, str) else "messages"
        answer = self.answer
        return {
            key: self.prompt,
            "answer": answer.text,
            "reason": answer.reason,
            "tokens": len(answer.tokens),
            "log_prob": round(sum(answer.log_probs), 4),
        }


def encode(checkpoint: Checkpoint, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, from the start of a document.

    Raises UserError for a word that no token stands for, and where no place is left for an answer.
    """
    tokenizer = checkpoint.tokenizer
    texts = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
    if odd := unwritable(texts):
        raise UserError(f"its text has {odd}, which UTF-8 cannot write")
    if isinstance(prompt, str):
        tokens = [tokenizer.special[END_OF_TEXT]] + (tokenizer.encode_texts([prompt])[0] if prompt else [])
    else:
        tokens = tokenizer.encode_prompt(prompt, checkpoint.template)
    if tokenizer.unknown is not None and tokenizer.unknown in tokens:
        word = tokenizer.unknown_word(texts)
        raise UserError(f"the tokenizer does not know {word!r}: its vocabulary is of words, and has others")
    if len(tokens) >= checkpoint.context:
        raise UserError(
            f"{len(tokens):,} tokens leave no place for an answer in a context of {checkpoint.context:,}"
        )
    return tokens


def read_prompts(path: Path, chat: bool) -> list[Prompt]:
    """The prompts in a file: JSONL with `prompt` or `messages` in each row, or else a line of text for each.

    With `chat` a plain text is what a user says. Raises UserError with file and line for what is neither.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"there is no {path}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    read = _row if path.suffix == ".jsonl" else (lambda text, _: text)
    found = [read(text, f"{path}:{number}") for number, text in enumerate(lines, 1) if text.strip()]
    if not found:
        raise UserError(f"{path} has no prompts: a line for each, or a row of JSONL")
    return [as_said(prompt, chat) for prompt in found]


def as_said(prompt: Prompt, chat: bool) -> Prompt:
    """A text, as what a user says where this is a chat."""
    return [{"role": "user", "content": prompt}] if chat and isinstance(prompt, str) else prompt


def _row(text: str, place: str) -> Prompt:
    try:
        row = json.loads(text)
    except ValueError:
        raise UserError(f"{place} is no JSON") from None
    if isinstance(row, dict) and isinstance(row.get("prompt"), str):
        return row["prompt"]
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{place} has neither `prompt`, a text, nor `messages`, a list of role and content")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise UserError(f"{place}: a message is a role and a content, both text")
        if message.get("role") not in ROLES:
            raise UserError(f"{place}: a role is one of {', '.join(ROLES)}, not {message.get('role')!r}")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def ask(checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Asked]:
    """Each prompt with its answer, in their order, as they come.

    Raises UserError, before any is answered, for a prompt that cannot be.
    """
    encoded = []
    for number, prompt in enumerate(prompts, 1):
        try:
            encoded.append(encode(checkpoint, prompt))
        except UserError as error:
            raise UserError(f"prompt {number}: {error}") from None

    def answered() -> Iterator[Asked]:
        with generator(checkpoint, len(encoded)) as model:
            for prompt, answer in zip(prompts, model.generate(encoded, sampling), strict=True):
                yield Asked(prompt, answer)

    return answered()


def converse(checkpoint: Checkpoint, chat: bool, sampling: Sampling, lines: Iterable[str]) -> Iterator[str]:
    """What the model says to each of the lines, as they come; in a chat it has those before in mind.

    A line that it cannot be asked gets the reason for an answer, in brackets; of a chat that is too long the oldest
    turns are forgotten.
    """
    said: list[Message] = []
    with generator(checkpoint) as model:
        for number, line in enumerate(lines):
            own: Message = {"role": "user", "content": line}
            try:
                tokens = encode(checkpoint, [own] if chat else line)
                while chat and said:
                    try:
                        tokens = encode(checkpoint, [*said, own])
                        break
                    except UserError:
                        del said[:2]
            except UserError as error:
                yield f"[{error}]"
                continue
            (answer,) = model.generate([tokens], dataclasses.replace(sampling, seed=sampling.seed + number))
            said += [own, {"role": "assistant", "content": answer.text}]
            yield answer.text


def generator(checkpoint: Checkpoint, prompts: int = 1) -> Generator:
    """What answers prompts by this checkpoint, about so many at a time."""
    devices = jax.devices()[: max(1, prompts)]
    rows = min(ROWS, -(-prompts // len(devices)))
    return Generator(
        checkpoint.params, checkpoint.model, checkpoint.tokenizer, checkpoint.context, rows, devices
    )
