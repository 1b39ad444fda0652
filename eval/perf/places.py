"""Where the benchmark keeps what it makes. All of it can be deleted and is made again."""

from pathlib import Path

EVAL = Path(__file__).parents[1]
REPOSITORY = EVAL.parent
PEERS = EVAL / "peers"
CACHE = EVAL / "cache"
MODELS = CACHE / "models"
VENVS = CACHE / "venvs"
WORK = CACHE / "perf"  # vectors to compare, indexes, the logs of workers
RESULTS = EVAL / "results"
RETRIEVAL_SETS = REPOSITORY.parent / "shared" / "eval-data" / "retrieval"
