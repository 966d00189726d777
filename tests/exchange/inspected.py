"""A task of Inspect for tests: questions of one word, answered or not."""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

WORDS = ("hot", "wet", "cold", "dry")


@task
def toy(times: int = 6, long: bool = False) -> Task:
    asked = [f"what is {word} ?" + (" hot" * 200 if long else "") for word in WORDS * times]
    samples = [Sample(id=i, input=text, target="the") for i, text in enumerate(asked)]
    return Task(dataset=samples, solver=generate(), scorer=includes(), epochs=2)
