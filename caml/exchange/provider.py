"""Models of caml for Inspect: `inspect eval TASK --model caml/PATH`, found by Inspect through its entry point.

`PATH` is what `caml generate` takes: a StageRun's folder in the ledger, the gin file of a cell, or a folder in the
format of Hugging Face. With `-M cell=... -M stage=...` it may be an ablation. Inspect asks many samples at once;
they go into one queue, from which rows are filled as they fall free (caml/evals/generation.py).
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import ChatCompletionChoice as Choice
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from caml.config.errors import Failure, Invalid, UserError
from caml.config.seeds import derive
from caml.evals.checkpoint import Checkpoint
from caml.evals.generation import Answer, Sampling
from caml.exchange.tools import as_turns, parsed

# Where neither the task nor the command line says how much.
MAX_TOKENS = 256
REASONS: dict[str, StopReason] = {"stop": "stop", "length": "max_tokens", "context": "model_length"}


@modelapi(name="caml")
def caml() -> type[ModelAPI]:
    """What Inspect asks for when a model's name begins with `caml/`."""
    return Caml


@modelapi(name="caml-no-grader")
def nobody() -> type[ModelAPI]:
    """Who grades where no grader is named."""
    return Nobody


class Nobody(ModelAPI):
    """The grader of a benchmark that names none: Inspect would let the model grade itself."""

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Never an answer."""
        raise UserError("the task asks for a grader, and none is named: --grader, or Benchmark.graders")


class Caml(ModelAPI):
    """One model, asked in its chat template, or (`chat` false) continued as plain text.

    Without a temperature in the task or on the command line it is 1, as with other providers. Samples that are asked
    the same, as epochs are, get different draws, and all together the same ones with every launch: a draw's random
    numbers follow from `seed`, the prompt and how often it was asked before.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  (as every provider has it)
        cell: str | None = None,
        stage: str | None = None,
        chat: bool = True,
        checkpoint: Checkpoint | None = None,
    ):
        super().__init__(model_name, base_url, api_key, [], config)
        from caml.training.devices import prepare_devices

        prepare_devices()
        from caml.ablations.opening import open_checkpoint
        from caml.evals.generation import ROWS
        from caml.evals.prompting import generator

        try:
            self.checkpoint = checkpoint or open_checkpoint(Path(model_name), cell, stage)
        except (UserError, Failure) as error:
            # What Inspect shows as one line, without a traceback.
            raise PrerequisiteError(f"caml: {error}") from None
        self._chat = chat
        self._asked: Counter[str] = Counter()
        self._generator = generator(self.checkpoint, 1 << 20)
        self._rows = ROWS

    def max_connections(self) -> int:
        """As many samples at once as there are rows on all devices."""
        import jax

        return self._rows * len(jax.devices())

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """The answer to a conversation."""
        import anyio

        from caml.evals.prompting import encode

        if tools and not self._chat:
            raise UserError(
                f"the task has tools, such as {tools[0].name!r}, which need a chat: leave out chat=false"
            )
        turns = as_turns(input, [] if tool_choice == "none" else tools)
        prompt = turns if self._chat else "\n".join(turn["content"] for turn in turns)
        try:
            tokens = encode(self.checkpoint, prompt)
            samplings = [self._sampling(tokens, config) for _ in range(config.num_choices or 1)]
            futures = [self._generator.submit(tokens, sampling) for sampling in samplings]
        except (UserError, Invalid) as error:
            raise UserError(f"{self.model_name}: {error}") from None
        limiter = anyio.CapacityLimiter(len(futures))
        answers: list[Answer] = [
            await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True, limiter=limiter)
            for future in futures
        ]
        written = sum(len(answer.tokens) for answer in answers)
        return ModelOutput(
            model=self.model_name,
            choices=[self._choice(answer, bool(config.logprobs), tools) for answer in answers],
            usage=ModelUsage(
                input_tokens=len(tokens), output_tokens=written, total_tokens=len(tokens) + written
            ),
        )

    def _sampling(self, tokens: list[int], config: GenerateConfig) -> Sampling:
        key = hashlib.sha256(repr(tokens).encode()).hexdigest()
        self._asked[key] += 1
        return Sampling(
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=1.0 if config.top_p is None else config.top_p,
            max_tokens=config.max_tokens or MAX_TOKENS,
            stop=tuple(config.stop_seqs or ()),
            seed=derive(config.seed or 0, "inspect", key, self._asked[key]),
            likeliest=(config.top_logprobs or 0) if config.logprobs else 0,
        )

    def _choice(self, answer: Answer, told: bool, tools: list[ToolInfo]) -> Choice:
        log_probs = None
        if told:
            beside: list[Any] = list(answer.likeliest) or [()] * len(answer.tokens)
            content = []
            for token, value, others in zip(answer.tokens, answer.log_probs, beside, strict=True):
                likeliest = [TopLogprob(**self._of_token(*other)) for other in others] or None
                content.append(Logprob(**self._of_token(token, value), top_logprobs=likeliest))
            log_probs = Logprobs(content=content)
        text, calls = parsed(answer.text, tools) if tools else (answer.text, [])
        message = ChatMessageAssistant(
            content=text, tool_calls=calls or None, model=self.model_name, source="generate"
        )
        reason = "tool_calls" if calls else REASONS[answer.reason]
        return Choice(message=message, stop_reason=reason, logprobs=log_probs)

    def _of_token(self, token: int, value: float) -> dict[str, Any]:
        text = self.checkpoint.tokenizer.decode([token])
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    async def count_text_tokens(self, text: str) -> int:
        """Tokens of a text by the model's own tokenizer."""
        return len(self.checkpoint.tokenizer.encode_texts([text])[0])

    async def aclose(self) -> None:
        """End the threads that answer."""
        self._generator.close()
