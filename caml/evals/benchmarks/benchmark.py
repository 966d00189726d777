"""A benchmark of the field, as a gin file names it: which task of Inspect, by which graders."""

import dataclasses
from typing import Any

from caml.config.errors import require

# What CaML calls its own, and the task of Inspect that it is.
KNOWN = {"anima": "inspect_evals/anima", "moru": "inspect_evals/moru", "tac": "inspect_evals/tac"}
GRADED = ("anima", "moru")
"""Tasks that are nothing without a grader, and take them by the argument `grader_models`."""
RENAMED = {"ahb": "anima"}
"""Old names, and what they are called now."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A task that a model sits, unchanged, and who grades it.

    `task`: anima (which was called ahb), moru, tac, or any task of Inspect ('inspect_evals/gsm8k', 'task.py@name').
    `graders`: models of Inspect, such as 'openai/gpt-5-mini'; without them a task that wants one ends with an error,
    and is never graded by the model itself. `arguments` of the task, such as {'dataset_repo_id': 'folder'}. `epochs`
    (0: the task's own), and `limit`, the most samples (0: all). Answers are drawn with `temperature`, `max_tokens` and
    `seed`.
    """

    task: str
    graders: tuple[str, ...] = ()
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int = 0
    limit: int = 0
    temperature: float = 1.0
    max_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.task), "task", "anima, moru, tac, or a task of Inspect")
        for grader in self.graders:
            named = "/" in grader.strip("/") and not grader.startswith("caml/")
            require(
                named, "graders", f"{grader!r}: a grader is named as provider/model, and is no model of caml"
            )
        require(
            self.name not in GRADED or len(self.graders) > 0,
            "graders",
            f"{self.name} is graded by a model: name one, such as 'openai/gpt-5-mini'; it is never the model itself",
            "task",
        )
        for field in ("epochs", "limit"):
            require(getattr(self, field) >= 0, field, "0 or a positive number")
        require(0 <= self.temperature < float("inf"), "temperature", "0 or a positive number")
        require(self.max_tokens >= 1, "max_tokens", "at least 1")

    @property
    def name(self) -> str:
        """What reports call it."""
        return RENAMED.get(self.task) or self.task.split("@")[-1].split("/")[-1].removesuffix(".py")

    @property
    def inspects(self) -> str:
        """The task by its name in Inspect."""
        return KNOWN.get(self.name if self.task in RENAMED else self.task, self.task)
