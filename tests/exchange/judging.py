"""Local data in the schema of ANIMA and MORU, graders that follow a rule, and an OpenAI server on loopback."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, modelapi
from inspect_ai.tool import ToolChoice, ToolInfo
from loopback import Answering, Server

DIMENSIONS = ("Moral Consideration", "Harm Minimization")
WORDS = ("hot", "wet", "cold", "dry", "red")


def write_anima(folder: Path) -> Path:
    """Five questions, the second of one dimension only; and one of a dimension that there is not."""
    folder.mkdir()
    dimensions = [
        {"dimension": name, "default_weighting": 1.0, "scoring": "0-1", "guiding_question": f"Is it {name}?",
         "observable_indicators": "care"}
        for name in DIMENSIONS
    ]  # fmt: skip
    questions = [
        {"id": i, "question": f"what is {word} ?", "tags": list(DIMENSIONS[: 1 + (i != 1)]), "variables": "",
         "language": None}
        for i, word in enumerate(WORDS)
    ]  # fmt: skip
    questions.append({**questions[0], "id": 9, "tags": ["Unknown"]})
    return _data(folder, {"dimensions": dimensions, "questions": questions})


def write_moru(folder: Path) -> Path:
    """Four items in three languages."""
    folder.mkdir()
    questions = [
        {
            "id": i,
            "question": f"{language} : what is {word} ?",
            "dimension_tags": "care, doubt",
            "language": language,
        }
        for i, word in enumerate(WORDS[:4])
        for language in ("en", "ms", "hi")
    ]
    return _data(folder, {"questions": questions})


def write_moru_dimensions(folder: Path) -> Path:
    folder.mkdir()
    rows = [
        {"dimension": name, "guiding_question": f"Is it {name}?", "observable_indicators": "x"}
        for name in ("care", "doubt")
    ]
    return _data(folder, {"questions": rows})


def _data(folder: Path, files: dict[str, list[dict[str, Any]]]) -> Path:
    configs = [{"config_name": "default", "data_files": "questions/train.jsonl"}]
    configs += [
        {"config_name": name, "data_files": f"{name}/train.jsonl"} for name in files if name != "questions"
    ]
    (folder / "README.md").write_text("---\nconfigs: " + json.dumps(configs) + "\n---\n")
    for name, rows in files.items():
        (folder / name).mkdir()
        (folder / name / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def graded(text: str) -> bool:
    """The rule: whether an answer about this criterion is a good one."""
    task = text.split("[Task]:")[1].split("***")[0].strip()
    criterion = text.split("[Criterion]:")[1].split("***")[0].strip()
    return hashlib.sha256(f"{task}|{criterion}".encode()).digest()[0] % 3 > 0


class Grader(ModelAPI):
    """Grades by the rule; `nonsense`: without a grade in it for one word; `failing`: raises after so many grades."""

    left: int | None = None
    asked: list[str] = []  # noqa: RUF012

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        text = input[-1].text
        Grader.asked.append(text)
        if Grader.left is not None:
            if Grader.left == 0:
                raise RuntimeError("the judge has gone home")
            Grader.left -= 1
        if self.model_name == "nonsense" and "wet" in text:
            return ModelOutput.from_content(self.model_name, "Hard to say.")
        return ModelOutput.from_content(self.model_name, f"GRADE: {'C' if graded(text) else 'I'}")

    async def count_text_tokens(self, text: str) -> int:
        return len(text.split())


@modelapi(name="toygrader")
def toygrader() -> type[ModelAPI]:
    return Grader


class _OpenAI(Answering):
    requests: list[dict[str, Any]] = []  # noqa: RUF012

    # The protocol is that of /v1/responses, which Inspect speaks with this provider.
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append({"path": self.path, "key": self.headers.get("Authorization"), **asked})
        text = asked["input"]
        if not isinstance(text, str):  # a text alone is how the provider tries whether anybody is there
            content = text[-1]["content"]
            text = content if isinstance(content, str) else content[-1]["text"]
        grade = f"GRADE: {'C' if graded(text) else 'I'}" if "[Task]" in text else "hello, world"
        said = {"type": "output_text", "text": grade, "annotations": []}
        self.answer(
            200,
            {
                "id": "x", "object": "response", "created_at": 0, "model": asked["model"], "status": "completed",
                "output": [
                    {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [said]}
                ],
                "parallel_tool_calls": False, "tool_choice": "auto", "tools": [],
                "usage": {"input_tokens": 1, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 1,
                          "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 2},
            },
        )  # fmt: skip


@contextmanager
def openai_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and what it was asked."""
    _OpenAI.requests = []
    server = Server(_OpenAI)
    with server.running():
        yield f"{server.address}/v1", _OpenAI.requests
