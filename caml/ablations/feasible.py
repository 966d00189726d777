"""Whether a run of the grid can be: its files are there, its words known, its slots filled, its doses doses."""

import dataclasses
import math
from itertools import islice
from typing import Any

from caml.ablations.imported import Imported
from caml.ablations.runs import Run, Stage
from caml.config.errors import Invalid, UserError
from caml.config.resolve import Loaded
from caml.config.seeds import derive
from caml.data.corpora.corpus import Corpus
from caml.data.corpora.schemas import PAIRED
from caml.data.matching import Matched
from caml.data.slots import plan_slots, slot_counts
from caml.data.sources import Document, Source, texts
from caml.data.tokenizer_recipes import LoadedTokenizer, Several, TrainedTokenizer, words_needed
from caml.evals.fileprobes import FileProbes


def _read_by(stage: Stage) -> list[Source]:
    """The sources of a stage; of a matched control, the pool and what it is matched to."""
    sources = list(stage.mixture.sources().values())
    return [of for source in sources for of in (source.sources if isinstance(source, Matched) else (source,))]


def _parts(thing: Any) -> tuple[Any, ...]:
    """What else is read where `thing` is: its recipe holds theirs."""
    if isinstance(thing, Corpus):
        return thing.hygiene.against
    if isinstance(thing, (Matched, Several)):
        return thing.sources
    if isinstance(thing, TrainedTokenizer):
        return (thing.source,)
    return (*thing.sets, thing.held_out_text) if isinstance(thing, FileProbes) else ()


def require_files(loaded: Loaded, thing: Any, seed: int, there: set[Any]) -> None:
    """Raise UserError where files are not there that `thing` or a part of it reads, by the field that names them.

    `there` are the things whose files are, and gets more of them.
    """
    if thing in there:
        return
    for part in _parts(thing):
        require_files(loaded, part, seed, there)
    try:
        if isinstance(thing, (LoadedTokenizer, Imported)):
            thing.recipe()
        elif not isinstance(thing, (TrainedTokenizer, FileProbes)):
            thing.recipe(seed)
    except Invalid as invalid:
        raise loaded.fault(invalid.message, *((thing, field) for field in invalid.fields)) from None
    there.add(thing)


def _paired(source: Source, seed: int) -> bool:
    """Whether the documents of a source are preference pairs."""
    if isinstance(source, Corpus):
        return isinstance(source.schema, PAIRED)
    return source.seeded and isinstance(next(source.documents(seed)), tuple)


def _words(document: Document) -> int:
    """Words of a document as a store holds it: the prompt of a preference pair stands in it twice."""
    twice = document[0] if isinstance(document, tuple) else []
    return sum(len(text.split()) for text in [*texts(document), *(turn["content"] for turn in twice)])


# Documents of a generated source that are looked at before it is written.
LOOKED_AT = 64


class Feasible:
    """Refuses runs of one grid that cannot be; knows those that it was shown before."""

    def __init__(self, loaded: Loaded):
        self._loaded = loaded
        self._there: set[Any] = set()  # sources whose files are
        self._guarded: set[Corpus] = set()  # corpora that are kept apart from the probes in use
        self._fitting: set[tuple[Source, int]] = set()  # sources whose documents fit into so many tokens
        self._beginning: set[tuple[Any, ...]] = set()  # initial models, with what is right for them
        self._pairs: dict[Source, bool] = {}  # whether a source's documents are preference pairs
        # The ratio that took so many slots: by its field, the stage, its slots, and how many were taken.
        self._doses: dict[tuple[str, str, int, int], float] = {}
        # The tokens that so many steps were asked for with: by stage, batch, length and steps.
        self._budgets: dict[tuple[str, int, int, int], int] = {}

    def require(self, run: Run) -> None:
        """Raise UserError, with file, line and value, for whatever makes `run` impossible."""
        self._refuse_missing_files(run)
        self._refuse_foreign_start(run)
        self._refuse_foreign_words(run)
        self._refuse_unguarded(run)
        self._refuse_impossible_slots(run)

    def _refuse_missing_files(self, run: Run) -> None:
        """Raise UserError where the files of a source are not there."""
        used: list[Any] = [source for stage in run.stages for source in _read_by(stage)]
        used += [run.probes] if isinstance(run.probes, FileProbes) else []
        for thing in (*used, run.tokenizer, *([run.initial] if run.initial else [])):
            require_files(self._loaded, thing, run.seed, self._there)

    def _refuse_foreign_start(self, run: Run) -> None:
        """Raise UserError where model or tokenizer of a run are not those of the model that it begins with."""
        initial = run.initial
        if initial is None or (initial, run.model, run.tokenizer) in self._beginning:
            return
        own, vocabulary = initial.model()
        for field in dataclasses.fields(own):
            # What a run may call it, and what only fresh parameters are made by.
            if field.name in ("name", "init_scale", "base_width"):
                continue
            asked, there = getattr(run.model, field.name), getattr(own, field.name)
            if asked != there:
                message = f"{asked}, where {initial.path} has {there}: `caml import` prints all that it has"
                raise self._loaded.fault(message, (run.model, field.name), (run, "model"))
        if run.tokenizer.vocabulary != vocabulary:
            message = f"the vocabulary is {run.tokenizer.vocabulary}, and that of {initial.path} {vocabulary}"
            raise self._loaded.fault(message, (run.tokenizer, "vocabulary"), (run, "tokenizer"))
        if not initial.has_tokenizer(run.tokenizer):
            message = f"the tokenizer is not that of {initial.path}: a LoadedTokenizer of the same path and revision"
            of_its_own = [(run.tokenizer, "path")] if isinstance(run.tokenizer, LoadedTokenizer) else []
            raise self._loaded.fault(message, *of_its_own, (run, "tokenizer"))
        try:
            initial.require_weights()
        except UserError as error:
            raise self._loaded.fault(str(error), (initial, "path")) from None
        self._beginning.add((initial, run.model, run.tokenizer))

    def _refuse_foreign_words(self, run: Run) -> None:
        """Raise UserError where a tokenizer of whole words is of another world than the text, or too small."""
        if not isinstance(run.tokenizer, TrainedTokenizer) or run.tokenizer.kind != "words":
            return
        words = run.tokenizer.source
        own = getattr(words, "setting", None)
        for stage in run.stages:
            for thing in (stage.mixture.base, stage.mixture.intervention, stage.mixture.second, run.probes):
                setting = getattr(thing, "setting", own)
                if setting != own:
                    named = f"{type(thing).__name__}.setting is {setting!r}"
                    message = f"{named}, and the words of the tokenizer are of {own!r}: make them alike"
                    raise self._loaded.fault(message, (thing, "setting"), (words, "setting"))
        held = words_needed(words.recipe(0).get("words", ()))
        if held > run.tokenizer.vocabulary:
            message = f"{words.name!r} has {held} words, and the vocabulary holds {run.tokenizer.vocabulary}"
            raise self._loaded.fault(
                f"{message}: at least as many", (run.tokenizer, "vocabulary"), (run.tokenizer, "source")
            )

    def _refuse_unguarded(self, run: Run) -> None:
        """Raise UserError for a corpus that is not kept apart from the items on which its models are asked."""
        if not isinstance(run.probes, FileProbes):
            return
        for stage in run.stages:
            for corpus in _read_by(stage):
                if not isinstance(corpus, Corpus) or corpus in self._guarded:
                    continue
                hygiene = corpus.hygiene
                known = [texts.recipe(0) for texts in hygiene.against]
                for items in run.probes.sets:
                    if items.recipe(0) not in known and items.name not in hygiene.unchecked:
                        message = (
                            f"{corpus.name!r} is not kept apart from the items {items.name!r}, on which its models are "
                            f"asked: name them in Hygiene.against, or as {items.name!r} in Hygiene.unchecked"
                        )
                        raise self._loaded.fault(message, (hygiene, "against"), (corpus, "hygiene"))
                self._guarded.add(corpus)

    def _refuse_impossible_slots(self, run: Run) -> None:
        """Raise UserError for a stage whose slots its mixture cannot fill as it says."""
        for stage in run.stages:
            mixture = stage.mixture
            if mixture.ratio > 0 and mixture.intervention and mixture.intervention.name == "base":
                message = "the arm 'base' has no documents; give it ratio 0.0"
                raise self._loaded.fault(message, (mixture, "ratio"), (mixture, "intervention"))
            if not stage.steps:
                continue
            budget = (stage.name, stage.batch, stage.length, stage.steps)
            known = self._budgets.setdefault(budget, stage.tokens)
            if known != stage.tokens:
                message = (
                    f"{stage.tokens} tokens are {stage.steps} steps of the stage {stage.name}, as {known} are"
                )
                raise self._loaded.fault(f"{message}: not two budgets; keep one", (stage, "tokens"))
            try:
                n, m = slot_counts(stage.slots, mixture.ratio, mixture.second_ratio, mixture.placement)
                if n and m and mixture.placement != "uniform":
                    # Whether the second source leaves room in the window is a matter of the block's ranks.
                    ranks = derive(run.seed, "ranks", stage.name)
                    plan_slots(stage.slots, mixture.ratio, mixture.second_ratio, mixture.placement, ranks)
            except Invalid as invalid:
                sites = [*((mixture, field) for field in invalid.fields), (stage, "tokens")]
                raise self._loaded.fault(invalid.message, *sites) from None
            except UserError as error:
                raise self._loaded.fault(str(error), (mixture, "ratio"), (mixture, "second_ratio")) from None
            sources = mixture.sources()
            for role, source in sources.items():
                self._refuse_unlike(stage, role, source, run.seed)
                self._refuse_cut(stage, source, run.seed)
            self._refuse_short(stage, sources["base"], stage.slots)
            for role, field, taken in (("intervention", "ratio", n), ("second", "second_ratio", m)):
                self._refuse_dose(stage, field, taken)
                if role in sources:
                    self._refuse_short(stage, sources[role], taken, field)

    def _refuse_unlike(self, stage: Stage, role: str, source: Source, seed: int) -> None:
        """Raise UserError where a stage learns from preference pairs and `source` has none, or the other way round."""
        if source not in self._pairs:
            self._pairs[source] = _paired(source, seed)
        if stage.preference == self._pairs[source]:
            return
        has, cure = (
            ("holds no preference pairs", "a source of pairs, or Mixture.loss = 'assistant'")
            if stage.preference
            else ("holds preference pairs", "Mixture.loss = 'preference'")
        )
        message = (
            f"{source.name!r} {has}, and {stage.name!r} learns with the loss {stage.mixture.loss!r}: {cure}"
        )
        raise self._loaded.fault(message, (stage.mixture, "loss"), (stage.mixture, role))

    def _refuse_cut(self, stage: Stage, source: Source, seed: int) -> None:
        """Raise UserError where generated documents do not fit into a sequence of `stage`: they are never cut."""
        if not source.seeded or (source, stage.length) in self._fitting:
            return
        words = max(map(_words, islice(source.documents(seed), LOOKED_AT)))
        if words > stage.length:
            message = (
                f"{source.name!r} has documents of {words} words, and a sequence has {stage.length} tokens: generated "
                "documents are not cut; a longer one"
            )
            raise self._loaded.fault(message, (stage, "length"))
        self._fitting.add((source, stage.length))

    def _refuse_dose(self, stage: Stage, field: str, taken: int) -> None:
        """Raise UserError for a ratio of `stage` that takes no slot, or as many as another one does."""
        ratio, where = getattr(stage.mixture, field), (stage.mixture, field)
        if ratio and not taken:
            message = f"{ratio:g} takes none of the {stage.slots} slots of the stage {stage.name}"
            raise self._loaded.fault(f"{message}: 0, or a ratio that takes one", where)
        known = self._doses.setdefault((field, stage.name, stage.slots, taken), ratio)
        if known != ratio:
            message = f"{ratio:g} takes {taken} of {stage.slots} slots in the stage {stage.name}"
            raise self._loaded.fault(f"{message}, as {known:g} does: not two doses; keep one", where)

    def _refuse_short(self, stage: Stage, source: Source, slots: int, *by: str) -> None:
        """Raise UserError where `source` has too little for `slots` slots, which fields `by` of the mixture give it."""
        needed = slots * stage.length
        # How much a corpus has that is taken whole is known when its store is there.
        seen = source.tokens * stage.share
        if not source.tokens or needed <= seen * source.repetition:
            return
        named, enough = type(source).__name__, math.ceil(needed / source.repetition / stage.share)
        of = f" of which it sees {seen:,.0f}," if stage.target_tokens else ""
        message = (
            f"the stage {stage.name} takes {needed} tokens of {source.name!r},{of} at most "
            f"{source.repetition:g} times over; that needs {named}.tokens of {enough} or more, "
            f"or {named}.repetition of {needed / seen:.4g} or more"
        )
        beside = [(source, "repetition"), (stage, "tokens"), (stage, "target_tokens")]
        beside += [(stage.mixture, field) for field in by]
        raise self._loaded.fault(message, (source, "tokens"), *beside)
