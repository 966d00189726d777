"""`caml export`: a trained model with a card that says how it came to be, and what it was measured to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from caml.ablations.condition import HEADLINE
from caml.ablations.imported import MANIFESTS
from caml.ablations.opening import Trained, find
from caml.config.text import counted
from caml.evals.identity import evaluation_fingerprint
from caml.exchange import models
from caml.tracking.ledger import State


def export(path: Path, folder: Path, cell: str | None = None, stage: str | None = None) -> str:
    """Write the model at `path` (as `find` takes it) into `folder`, and return its name.

    Raises UserError where there is none, where it is not trained, or where `folder` holds something.
    """
    trained = find(path, cell, stage)
    manifests = [trained.ledger.manifest(one.name) for one in trained.lineage[:-1]]
    checkpoint = trained.checkpoint()
    manifests.append(dict(checkpoint.about))
    models.write_folder(checkpoint, folder, _card(trained, manifests), {MANIFESTS: manifests})
    return checkpoint.name


def _card(trained: Trained, manifests: list[dict[str, Any]]) -> str:
    last = manifests[-1]
    licences = sorted({licence for _, source in _sources(trained) if (licence := source.licence)})
    about: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["caml", "qwen3", f"arm:{last['arm']}"],
    }
    # The Hub knows one licence; where there are several, the card has them all.
    about |= {"license": licences[0].lower()} if len(licences) == 1 else {"license": "other"}
    count = last["params"]
    what = (
        f"A dense Qwen3 of {count:,} parameters outside its embedding ({last['size']}), trained from scratch by caml: "
        f"arm {last['arm']}, {last['ratio']:.4g} of the slots of its first stage, {last['dose_tokens']:,} intervention "
        f"tokens, seed block {last['seed']}, after the stage {last['stage']}."
    )
    sections = [
        ("", f"# {trained.name}\n{what}"),
        ("Use", _use(trained)),
        ("Data", "\n".join(_data(trained, manifests))),
        ("Scores", "\n".join(_scores(trained))),
    ]
    headline = trained.folder / HEADLINE
    if headline.exists():
        sections.append(
            ("Effects in its ablation", "\n".join(f"- {x}" for x in headline.read_text().splitlines()))
        )
    sections += [
        ("Provenance", "\n".join(_provenance(manifests))),
        ("Licence", f"That of its texts: {', '.join(licences) or 'not stated by its sources'}."),
    ]
    return models.headed(about, sections)


def _use(trained: Trained) -> str:
    return (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")\n'
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        "```\n"
        f"Texts begin with `<|endoftext|>`, which the tokenizer puts there; conversations are written in the "
        f"`{trained.stagerun.stage.mixture.template}` template."
    )


def _sources(trained: Trained) -> Iterator[tuple[str, Any]]:
    """Each source that a stage of the lineage really read, by role."""
    for one in trained.lineage:
        if one.steps:
            yield from one.stage.mixture.sources().items()


def _data(trained: Trained, manifests: list[dict[str, Any]]) -> Iterator[str]:
    yield "| stage | role | source | tokens | documents | share of slots | epochs | licence | origin |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one, manifest in zip(trained.lineage, manifests, strict=True):
        sources = one.stage.mixture.sources()
        slots = sum(count["slots"] for count in manifest["sources"].values())
        for role, count in manifest["sources"].items():
            source = sources[role]
            yield (
                f"| {manifest['stage']} | {role} | {count['name']} | {count['tokens']:,} | {count['documents']:,} | "
                f"{count['slots'] / slots:.2%} | {count['epochs']:.2f} | {source.licence} | {source.origin} |"
            )
    yield ""
    yield (
        "Tokens are those of documents, without padding. Intervention documents take the place of base text, so that "
        "all arms of a seed block have as many tokens and steps."
    )


def _scores(trained: Trained) -> Iterator[str]:
    """The mean margin of each rung or family of the model's own probes."""
    probes, ledger = trained.run.probes, trained.ledger
    evaluation = evaluation_fingerprint(probes)
    if ledger.evaluation_state(trained.name, evaluation) is not State.COMPLETE:
        yield "Not scored by the probes of its ablation."
        return
    scores = ledger.read_evaluation(trained.name, evaluation)
    by_item = dict(zip(scores.margins["item"].to_pylist(), scores.margins["margin"].to_pylist(), strict=True))
    groups: dict[str, list[float]] = {}
    for item in probes.items(trained.stagerun.seed):
        groups.setdefault(f"{item.family} {item.rung}".strip(), []).append(by_item[item.name])
    yield "Margins, log P(aligned) - log P(opposed), mean over items; of one model, so without an interval."
    yield ""
    yield "| probes | items | margin (nats) |"
    yield "|---|---|---|"
    for name, margins in groups.items():
        yield f"| {name.replace('_', ' ')} | {len(margins)} | {np.mean(margins):.2f} |"
    yield ""
    yield "A margin is not an effect: that is the difference to the control of the same seed block."


def _provenance(manifests: list[dict[str, Any]]) -> Iterator[str]:
    for manifest in manifests:
        code = manifest["launches"][-1]
        dirty = " (with changes)" if code["dirty"] else ""
        yield (
            f"- {manifest['stage']}: StageRun {manifest['fingerprint']}, {counted(manifest['steps'], 'step')}, commit "
            f"{code['commit']}{dirty}, {code['machine']['cpu']}, jax {code['packages']['jax']}"
        )
    yield f"\nWhole manifests: `{MANIFESTS}`."
