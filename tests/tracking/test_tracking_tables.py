"""Tables hold what complete StageRuns hold, and refuse the others by name."""

import numpy as np
import pytest
from toy_tracking import EVALUATION, Trainer, cut, flip

from caml.config.errors import Failure
from caml.tracking import tables


def test_the_frozen_columns_and_every_row(trainer: Trainer) -> None:
    trainer.whole("a", steps=20)
    trainer.whole("b", steps=10)
    names = ["b", "a"]
    metrics = tables.metrics(trainer.ledger, names)
    assert list(metrics.columns) == ["stagerun", "step", "tokens", "loss", "gradient_norm", "rate"]
    assert metrics["stagerun"].tolist() == [f"{'b':0>64}"] * 10 + [f"{'a':0>64}"] * 20
    assert metrics["step"].tolist() == [*range(1, 11), *range(1, 21)]
    assert np.array_equal(metrics["loss"], trainer.loss(metrics["step"].to_numpy()))
    curve = tables.trajectory(trainer.ledger, names)
    assert list(curve.columns) == ["stagerun", "step", "tokens", "outcome", "value"]
    assert curve["value"].tolist() == [0.0, 0.0, 1.0]
    margins = tables.margins(trainer.ledger, names, EVALUATION)
    assert list(margins.columns) == ["stagerun", "item", *tables.LENGTHS, *tables.NORMS]
    assert margins["margin"].tolist() == [0.5, -0.25] * 2
    outcomes = tables.outcomes(trainer.ledger, names, EVALUATION)
    assert outcomes["outcome"].tolist() == ["tax_bits_per_byte", "sft_loss_drop"] * 2
    assert outcomes["value"].isna().tolist() == [False, True] * 2
    facts = tables.manifests(trainer.ledger, names, ["arm", "steps", "learned_at", "commit"])
    assert facts["name"].tolist() == names
    assert facts["steps"].tolist() == [10, 20]
    assert facts["learned_at"].isna().all()
    assert facts["commit"].tolist() == ["c0ffee"] * 2
    with pytest.raises(Failure, match=r"ledger/b has no colour"):
        tables.manifests(trainer.ledger, names, ["arm", "colour"])


def test_no_stageruns_give_empty_tables(trainer: Trainer) -> None:
    assert list(tables.metrics(trainer.ledger, []).columns)[:2] == ["stagerun", "step"]
    assert len(tables.margins(trainer.ledger, [], EVALUATION)) == 0


def test_what_is_incomplete_is_refused_by_name(trainer: Trainer) -> None:
    trainer.whole("a")
    trainer.start("b")
    for read in (tables.metrics, tables.trajectory):
        with pytest.raises(Failure, match="b is started; c is missing: start `caml run`"):
            read(trainer.ledger, ["a", "b", "c"])


def test_scores_of_other_probes_are_refused_by_name(trainer: Trainer) -> None:
    trainer.whole("a")
    with pytest.raises(Failure, match="a has scores that are only of other probes"):
        tables.margins(trainer.ledger, ["a"], "f" * 64)
    trainer.start("b")
    trainer.finish("b", 0)
    with pytest.raises(Failure, match="b has scores that are missing"):
        tables.outcomes(trainer.ledger, ["a", "b"], EVALUATION)


def test_damage_is_refused_by_name(trainer: Trainer) -> None:
    trainer.whole("a")
    flip(trainer.ledger.folder("a") / "trajectory/00000010-00000020.parquet")
    tables.metrics(trainer.ledger, ["a"])
    with pytest.raises(Failure, match=r"trajectory/00000010-00000020\.parquet was altered"):
        tables.trajectory(trainer.ledger, ["a"])
    cut(trainer.ledger.folder("a") / "evals" / EVALUATION / "margins.parquet")
    with pytest.raises(Failure, match="a has scores that are damaged"):
        tables.margins(trainer.ledger, ["a"], EVALUATION)
