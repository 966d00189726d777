"""A task of Inspect for tests: questions of one word, answered or not."""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import Tool, tool

WORDS = ("hot", "wet", "cold", "dry")


@tool
def buy() -> Tool:
    async def execute(thing: str) -> str:
        """Buy a thing.

        Args:
            thing: What to buy.
        """
        return f"{thing} is yours"

    return execute


@task
def shopping() -> Task:
    """Ends when a model that always buys has bought twice."""
    samples = [Sample(input="get me something", target="b is yours")]
    return Task(dataset=samples, solver=[use_tools(buy()), generate()], scorer=includes(), message_limit=6)


@task
def toy(times: int = 6, long: bool = False) -> Task:
    asked = [f"what is {word} ?" + (" hot" * 200 if long else "") for word in WORDS * times]
    samples = [Sample(id=i, input=text, target="the") for i, text in enumerate(asked)]
    return Task(dataset=samples, solver=generate(), scorer=includes(), epochs=2)
