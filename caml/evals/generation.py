"""Text from a model: prompts of any length, as many at once as there are rows, and a new one wherever a row is free.

Each device has a `_Worker`: a thread that owns a cache (caml/models/decoding.py), takes prompts from the common queue,
makes some tokens for all its rows in one dispatch, and ends the rows that are done. What a prompt is answered does not
depend on its company: a row's random numbers are its own, made of its seed and position.
"""

import dataclasses
import functools
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from caml.config.errors import UserError, require
from caml.config.seeds import derive
from caml.data.chat import END_OF_TEXT, END_OF_TURN
from caml.data.tokenizer import Tokenizer
from caml.models import decoding
from caml.models.products import products_in
from caml.models.sizes import Model
from caml.models.transformer import Parameters

# Tokens of every row in one dispatch; a row that ends inside wastes what is left of it.
STEPS = 16
ROWS = 64
# As many as providers tell of.
MOST_LIKELIEST = 20
# Of prompts, so many tokens are read at once (of a longer one all its own), at least so many with padding, and so many
# prompts: a piece stays in a core's cache, and there are few programs.
_READ_AT_ONCE, _LEAST_READ, _PROMPTS_AT_ONCE = 256, 64, 16


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    `temperature` 0 takes the likeliest token each time. `top_p`: of the likeliest tokens, as many as have this share of
    the probability (Holtzman et al. 2020, arXiv 1904.09751). An answer ends with a special token of the tokenizer,
    before the first of the `stop` sequences, after `max_tokens`, or where the context ends. `likeliest`: so many of the
    likeliest tokens are told of beside each one that was drawn. Raises Invalid for what cannot be.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    seed: int = 0
    likeliest: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.temperature < float("inf"), "temperature", "0 or a positive number")
        require(0 < self.top_p <= 1, "top_p", "a share above 0 and at most 1")
        require(self.max_tokens >= 1, "max_tokens", "at least 1")
        require(0 <= self.likeliest <= MOST_LIKELIEST, "likeliest", f"0 to {MOST_LIKELIEST} tokens")
        require(all(self.stop), "stop", "a text with something in it")


@dataclass(frozen=True)
class Answer:
    """What a model wrote: its text without what ended it, its tokens with it, and the log-probability of each (nats).

    Log-probabilities are the model's own, whatever the temperature. `reason`: `stop`, `length` (max_tokens) or
    `context` (its end was reached). `likeliest`: at each token, those that were likeliest there with their
    log-probabilities, likeliest first.
    """

    text: str
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    reason: str
    likeliest: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass
class _Row:
    """A prompt that is being answered."""

    prompt: Sequence[int]
    sampling: Sampling
    future: "Future[Answer]"
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    likeliest: list[tuple[tuple[int, float], ...]] = field(default_factory=list)


class _Drawn(NamedTuple):
    """State of all rows between dispatches: their last tokens `[B]`, the cache, and how each draws."""

    tokens: jax.Array
    cache: decoding.Cache
    keys: jax.Array  # [B, 2]: raw random keys
    temperature: jax.Array
    top_p: jax.Array


class Generator:
    """Answers prompts with one model, on all `devices` (default: those of this process).

    `context`: the most tokens of prompt and answer together. `rows`: prompts that a device answers at once. Close it,
    or use it in a `with`: its threads end then, and prompts that are left are cancelled.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        model: Model,
        tokenizer: Tokenizer,
        context: int,
        rows: int = ROWS,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.model, self.tokenizer, self.context = model, tokenizer, context
        self.ends = (tokenizer.special[END_OF_TEXT], tokenizer.special[END_OF_TURN])
        self._queue: deque[_Row] = deque()
        self._news = threading.Condition()
        self._closed = False
        devices = devices or jax.devices()
        self._held = [0] * len(devices)  # rows of each worker that are being answered
        self._workers = [
            _Worker(self, number, jax.device_put(dict(params), device), device, rows)
            for number, device in enumerate(devices)
        ]

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> "Future[Answer]":
        """Put a prompt (token ids) into the queue. Raises UserError where it leaves no place for an answer."""
        if not prompt:
            raise UserError("a prompt is empty")
        if len(prompt) >= self.context:
            raise UserError(
                f"a prompt of {len(prompt):,} tokens leaves no place for an answer in a context of {self.context:,}"
            )
        row = _Row(prompt, sampling, Future())
        with self._news:
            if self._closed:
                raise RuntimeError("the generator is closed")
            self._queue.append(row)
            self._news.notify_all()
        return row.future

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[Answer]:
        """The answers to prompts, in their order, as they come; all prompts are in the queue when this returns.

        Each prompt has a seed of its own, of `sampling.seed` and its number.
        """
        with self._news:  # workers see all at once, and share them evenly
            futures = [
                self.submit(
                    prompt, dataclasses.replace(sampling, seed=derive(sampling.seed, "answer", number))
                )
                for number, prompt in enumerate(prompts)
            ]
        return (future.result() for future in futures)

    def close(self) -> None:
        """End the threads, after the dispatch that they are in; prompts that are left are cancelled."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        for worker in self._workers:
            worker.join()
        for row in self._queue:
            row.future.cancel()

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, worker: int, held: int, free: int, slots: int) -> list[_Row] | None:
        """Prompts for the free rows of a worker that holds some, those that fit its `slots`. None: closed.

        It waits while it holds none, and takes no more than its share of all that are queued or held.
        """
        with self._news:
            self._held[worker] = held
            while not held and not self._queue and not self._closed:
                self._news.wait()
            if self._closed:
                return None
            fair = -(-(len(self._queue) + sum(self._held)) // len(self._held)) - held
            taken: list[_Row] = []
            # In their order: one that needs a longer cache waits until the worker is idle, and those behind it too.
            while self._queue and len(taken) < min(free, fair):
                if held and self.needed(self._queue[0]) > slots:
                    break
                taken.append(self._queue.popleft())
            self._held[worker] = held + len(taken)
            return taken

    def needed(self, row: _Row) -> int:
        """The slots that a prompt and its answer may fill."""
        return min(len(row.prompt) + row.sampling.max_tokens, self.context)


class _Worker(threading.Thread):
    """A device, its copy of the parameters, and the rows that are answered on it."""

    def __init__(self, owner: Generator, number: int, params: Parameters, device: jax.Device, rows: int):
        super().__init__(name=f"generate on {device}", daemon=True)
        self._owner, self._number, self._params, self._device = owner, number, params, device
        self._rows: list[_Row | None] = [None] * rows
        self._state: _Drawn | None = None
        self._slots = 0
        self.start()

    def run(self) -> None:
        """Answer prompts until the generator is closed."""
        with jax.default_device(self._device):
            while True:
                free = [i for i, row in enumerate(self._rows) if row is None]
                held = len(self._rows) - len(free)
                taken = self._owner.take(self._number, held, len(free), self._slots)
                if taken is None:
                    break
                try:
                    if taken:
                        self._admit(taken, free)
                    if any(self._rows):
                        self._advance()
                except Exception as problem:  # of a device: whoever waits for an answer is told
                    for row in (*taken, *self._rows):
                        if row is not None and not row.future.done():
                            row.future.set_exception(problem)
                    self._rows, self._state, self._slots = [None] * len(self._rows), None, 0
        for left in self._rows:
            if left is not None:
                left.future.cancel()

    def _admit(self, taken: list[_Row], free: list[int]) -> None:
        """Read the prompts of `taken` into free rows of the cache."""
        most = max(map(self._owner.needed, taken))
        if self._state is None or most > self._slots:
            self._slots = min(_power(most), self._owner.context)
            self._state = _fresh(self._owner.model, len(self._rows), self._slots)
        piece: list[tuple[int, _Row]] = []
        for place, row in zip(free, taken, strict=False):
            tokens = sum(len(other.prompt) - 1 for _, other in piece) + len(row.prompt) - 1
            if piece and (tokens > _READ_AT_ONCE or len(piece) == _PROMPTS_AT_ONCE):
                self._read(piece)
                piece = []
            piece.append((place, row))
            self._rows[place] = row
        self._read(piece)

    def _read(self, piece: list[tuple[int, _Row]]) -> None:
        """Read prompts, packed into one sequence; the last token of each is the first that is stepped."""
        rows = [row for _, row in piece]
        held = np.array([len(row.prompt) - 1 for row in rows])
        start = np.cumsum(held) - held
        whole = int(held.sum())  # in one of few lengths, so that there are few programs
        length = _LEAST_READ if whole <= _LEAST_READ else max(_power(whole), _READ_AT_ONCE)
        tokens, segments, positions = np.zeros((3, length), np.int32)
        for number, (row, at, count) in enumerate(zip(rows, start, held, strict=True), 1):
            tokens[at : at + count] = row.prompt[:-1]
            segments[at : at + count] = number
            positions[at : at + count] = np.arange(count)
        free = (0, _PROMPTS_AT_ONCE - len(rows))
        nowhere = len(self._rows)  # a row that there is not is left out
        samplings = [row.sampling for row in rows]
        keys = np.array([divmod(how.seed % 2**64, 2**32) for how in samplings], np.uint32)
        self._state = _joined(
            self._owner.model,
            self._params,
            self._state,
            (tokens, segments, positions),
            np.pad(start.astype(np.int32), free),
            np.pad(held.astype(np.int32), free),
            np.pad(np.array([place for place, _ in piece], np.int32), free, constant_values=nowhere),
            np.pad(np.array([row.prompt[-1] for row in rows], np.int32), free),
            np.pad(keys, (free, (0, 0))),
            np.pad(np.array([how.temperature for how in samplings], np.float32), free),
            np.pad(np.array([how.top_p for how in samplings], np.float32), free),
        )

    def _advance(self) -> None:
        """Make `STEPS` tokens of every row, and end those that are done."""
        active = [row for row in self._rows if row is not None]
        draws = any(row.sampling.temperature > 0 for row in active)
        cuts = any(row.sampling.temperature > 0 and row.sampling.top_p < 1 for row in active)
        told = any(row.sampling.likeliest for row in active)
        self._state, made = _steps(self._owner.model, draws, cuts, told, self._params, self._state)
        tokens_BxS, log_probs_BxS = np.asarray(made.tokens).T, np.asarray(made.log_probs).T
        likely_SxBxK, of_likely_SxBxK = map(np.asarray, made.likeliest or (None, None))
        for number, row in enumerate(self._rows):
            if row is None:
                continue
            for step, (token, log_prob) in enumerate(
                zip(tokens_BxS[number].tolist(), log_probs_BxS[number].tolist(), strict=True)
            ):
                row.tokens.append(token)
                row.log_probs.append(log_prob)
                if row.sampling.likeliest:
                    asked = slice(row.sampling.likeliest)
                    tokens_K = likely_SxBxK[step, number, asked].tolist()
                    of_K = of_likely_SxBxK[step, number, asked].tolist()
                    row.likeliest.append(tuple(zip(tokens_K, of_K, strict=True)))
                if (answer := self._ended(row)) is not None:
                    self._rows[number] = None
                    if row.future.set_running_or_notify_cancel():
                        row.future.set_result(answer)
                    break

    def _ended(self, row: _Row) -> Answer | None:
        """The answer, where the row's last token ends it."""
        owner, sampling, tokens = self._owner, row.sampling, row.tokens

        def answer(text: str, reason: str) -> Answer:
            return Answer(text, tuple(tokens), tuple(row.log_probs), reason, tuple(row.likeliest))

        if tokens[-1] in owner.ends:
            return answer(owner.tokenizer.decode(tokens[:-1]), "stop")
        if sampling.stop:
            text = owner.tokenizer.decode(tokens)
            found = [place for stop in sampling.stop if (place := text.find(stop)) >= 0]
            if found:
                return answer(text[: min(found)], "stop")
        if len(tokens) == sampling.max_tokens:
            return answer(owner.tokenizer.decode(tokens), "length")
        if len(row.prompt) + len(tokens) == owner.context:
            return answer(owner.tokenizer.decode(tokens), "context")
        return None


def _power(least: int) -> int:
    """The power of two that is at least this."""
    return 1 << max(0, least - 1).bit_length()


def _fresh(model: Model, rows: int, slots: int) -> _Drawn:
    return _Drawn(
        jnp.zeros((rows,), jnp.int32),
        decoding.empty_cache(model, rows, slots),
        jnp.zeros((rows, 2), jnp.uint32),
        jnp.zeros((rows,), jnp.float32),
        jnp.ones((rows,), jnp.float32),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
@products_in("float32")
def _joined(
    model: Model,
    params: Parameters,
    state: _Drawn,
    sequence: tuple[Any, Any, Any],
    start_R: Any,
    held_R: Any,
    rows_R: Any,
    last_R: Any,
    keys_Rx2: Any,
    temperature_R: Any,
    top_p_R: Any,
) -> _Drawn:
    """The state with new prompts in these rows: all their tokens but the last are in the cache.

    `sequence`: the tokens of all of them, their segments and positions.
    """
    prompts = decoding.read_prompts(params, model, *sequence, start_R, held_R)

    def put(all_B: jax.Array, new_R: jax.Array) -> jax.Array:
        return all_B.at[rows_R].set(new_R, mode="drop")

    return _Drawn(
        put(state.tokens, last_R),
        decoding.join(state.cache, prompts, rows_R),
        put(state.keys, keys_Rx2),
        put(state.temperature, temperature_R),
        put(state.top_p, top_p_R),
    )


class _Made(NamedTuple):
    """What a dispatch made: tokens and their log-probabilities `[STEPS, B]`; and, where they are wanted, the likeliest
    tokens and theirs `[STEPS, B, MOST_LIKELIEST]`.
    """

    tokens: jax.Array
    log_probs: jax.Array
    likeliest: tuple[jax.Array, jax.Array] | None


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
@products_in("float32")
def _steps(
    model: Model, draws: bool, cuts: bool, told: bool, params: Parameters, state: _Drawn
) -> tuple[_Drawn, _Made]:
    """`STEPS` more tokens of all rows.

    `draws`: some rows have a temperature; `cuts`: some of these a `top_p` below 1; `told`: the likeliest are wanted.
    """

    def one(carry: tuple[jax.Array, decoding.Cache], _: None) -> tuple:
        tokens_B, cache = carry
        position_B = cache.length
        logits_VxB, cache = decoding.step(params, model, tokens_B, cache)
        log_probs_VxB = jax.nn.log_softmax(logits_VxB, axis=0)
        chosen_B = jnp.argmax(logits_VxB, axis=0).astype(jnp.int32)
        if draws:
            sampled_B = _draw(logits_VxB, state, position_B, cuts)
            chosen_B = jnp.where(state.temperature > 0, sampled_B, chosen_B)
        found_B = jnp.take_along_axis(log_probs_VxB, chosen_B[None], axis=0)[0]
        likeliest = None
        if told:
            of_BxK, tokens_BxK = jax.lax.top_k(log_probs_VxB.T, min(MOST_LIKELIEST, log_probs_VxB.shape[0]))
            likeliest = tokens_BxK, of_BxK
        return (chosen_B, cache), _Made(chosen_B, found_B, likeliest)

    last: tuple[jax.Array, decoding.Cache]
    made: _Made
    last, made = jax.lax.scan(one, (state.tokens, state.cache), length=STEPS)
    return state._replace(tokens=last[0], cache=last[1]), made


def _draw(logits_VxB: jax.Array, state: _Drawn, position_B: jax.Array, cuts: bool) -> jax.Array:
    """A token of each row by its temperature and `top_p`, `[B]`; a row of temperature 0 gets any."""
    logits_VxB = logits_VxB / jnp.where(state.temperature > 0, state.temperature, 1.0)
    if cuts:
        logits_VxB = jnp.where(nucleus(jax.nn.softmax(logits_VxB, axis=0), state.top_p), logits_VxB, -jnp.inf)

    def noise(key: jax.Array, position: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.wrap_key_data(key), position)
        return jax.random.gumbel(own, (logits_VxB.shape[0],), jnp.float32)

    noise_VxB = jax.vmap(noise, out_axes=1)(state.keys, position_B)
    return jnp.argmax(logits_VxB + noise_VxB, axis=0).astype(jnp.int32)


def nucleus(probabilities_VxB: jax.Array, share_B: jax.Array) -> jax.Array:
    """Which tokens are among the likeliest that have this share of the probability together, `[V, B]` of bool.

    As few as reach it; those as likely as the last of them are in too. No sorting: the probability of the last is found
    by halving an interval, of the bits of floats, which are in the order of the numbers.
    """
    bits_VxB = jax.lax.bitcast_convert_type(probabilities_VxB, jnp.int32)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low_B, high_B = ends
        middle_B = low_B + (high_B - low_B) // 2
        enough_B = jnp.where(bits_VxB >= middle_B, probabilities_VxB, 0.0).sum(axis=0) >= share_B
        return jnp.where(enough_B, middle_B, low_B), jnp.where(enough_B, high_B, middle_B)

    # Those at `low` or above are enough, those at `high` or above are not.
    none_B = jnp.zeros(share_B.shape, jnp.int32)
    low_B, _ = jax.lax.fori_loop(0, 31, halve, (none_B, bits_VxB.max(axis=0) + 1))
    return bits_VxB >= low_B
