"""A gin file that trains models of a case on base text of the embedded world, for benchmarks of the whole path."""

from pathlib import Path

from benchmarks.training import Case


def write_ablation(folder: Path, case: Case, steps: int, seeds: int = 1) -> Path:
    """The file, in `folder`: one StageRun of `steps` steps for each of `seeds`, their results below it in `runs`."""
    tokens = steps * case.batch * case.length
    path = folder / "benchmark.gin"
    path.write_text(f"""
SEED = 0

Ablation.name = 'benchmark'
Ablation.run = @Run()
Ablation.axes = {{'SEED': {list(range(seeds))}}}
Ablation.output = '{folder / "runs"}'

Run.model = @Model()
Run.seed = %SEED
Run.tokenizer = @TrainedTokenizer()
Run.stages = (@Stage(),)
Run.probes = @WorldProbes()

Model.name = '{case.name}'
Model.width = {case.width}
Model.layers = {case.layers}
Model.heads = {case.heads}
Model.kv_heads = {case.heads}
Model.head_dim = {case.head}
Model.mlp_width = {case.mlp}

TrainedTokenizer.kind = 'words'
TrainedTokenizer.vocabulary = {case.vocabulary}
TrainedTokenizer.source = @Words()

Stage.name = 'pretrain'
Stage.tokens = {tokens}
Stage.batch = {case.batch}
Stage.length = {case.length}
Stage.mixture = @Mixture()
Stage.optimizer = @Optimizer()
Stage.schedule = @Schedule()
Mixture.base = @BaseText()
BaseText.tokens = {tokens + case.batch * case.length}
Optimizer.name = 'adamw'
Optimizer.rate = 0.001
Optimizer.embedding_rate = 0.001
""")
    return path
