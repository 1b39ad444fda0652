"""MTEB's own evaluation over the starter models, on small tasks of each kind."""

import json
import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

from eval.datasets import Dataset, write_dataset
from rag.errors import InvalidInput
from services.cli import app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what MTEB's own imports warn of
    mteb = pytest.importorskip("mteb", reason='MTEB is not installed: pip install "ragstone[mteb]"')

from eval.mteb_models import EmbedderModel, RerankerModel
from eval.mteb_run import model_of, run, show
from eval.mteb_tasks import open_task

pytestmark = pytest.mark.filterwarnings("ignore")  # MTEB and what it uses warn as they like

LIGHTS = Dataset(
    "lights",
    {"bell": "Bell Rock", "grace": "", "fog": "", "oil": ""},
    {
        "bell": "The lighthouse was built by Robert Stevenson and first lit in 1811.",
        "grace": "Grace Darling rowed out in a storm to rescue the survivors of a wreck.",
        "fog": "In fog a bell was struck by clockwork, because nobody could see the lamp.",
        "oil": "The lamps burned the oil of whales, and later paraffin.",
    },
    {
        "q1": "Who rescued the survivors of a wreck in a storm?",
        "q2": "What fuel did the lamps use?",
    },
    {"q1": {"grace": 1}, "q2": {"oil": 1}},
)
CHINESE = Dataset(
    "灯塔",
    {"塔": "", "雾": "", "油": "", "船": ""},
    {
        "塔": "这座灯塔建在海边的岩石上，一八一一年第一次点亮。",
        "雾": "大雾的时候，看守人敲钟提醒过往的船只。",
        "油": "早年的灯用鲸油，后来改用煤油和电。",
        "船": "渡船每天早上九点离开港口，天黑以前回来。",
    },
    {
        "问": "渡船早上几点离开港口？",
        "灯": "早年的灯烧什么？",
        "钟": "看不见灯的时候怎么提醒船只？",
    },
    {"问": {"船": 1}, "灯": {"油": 1}, "钟": {"雾": 1}},
)
PAIRS = [
    ("The lamp was lit at dusk.", "At nightfall the light was switched on.", 4.5),
    ("The lamp was lit at dusk.", "The lamp burned oil.", 2.5),
    ("The lamp was lit at dusk.", "Bread rises in a warm kitchen.", 0.0),
    ("A ship ran aground on the rocks.", "A vessel was stranded on the reef.", 4.4),
    ("A ship ran aground on the rocks.", "The train leaves at seven.", 0.2),
]


@pytest.fixture
def folder(tmp_path):
    """Writes a data set, with candidates where some are given."""

    def written(dataset, candidates=None):
        write_dataset(tmp_path / dataset.name, dataset)
        if candidates is not None:
            write(tmp_path / dataset.name / "candidates.jsonl", [
                {"_id": query, "candidates": found} for query, found in candidates.items()
            ])  # fmt: skip
        return str(tmp_path / dataset.name)

    return written


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), "utf8")


@pytest.fixture
def score(lighthouse, tmp_path):
    def found(task, *, reranker=False):
        model = model_of(lighthouse.parts, reranker=reranker)
        (row,) = run(model, [task], tmp_path / "out", progress=False).about()["rows"]
        return row

    return found


def test_they_are_models_to_mteb(lighthouse):
    embeds, reranks = (model_of(lighthouse.parts, reranker=rerank) for rerank in (False, True))
    assert isinstance(embeds, EmbedderModel)
    assert isinstance(embeds, mteb.EncoderProtocol)
    assert isinstance(reranks, RerankerModel)
    assert isinstance(reranks, mteb.CrossEncoderProtocol)
    assert embeds.mteb_model_meta.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert reranks.mteb_model_meta.name == "ragstone/late-interaction"


def test_only_a_query_is_embedded_as_one(lighthouse, monkeypatch):
    embedder = lighthouse.parts.embedder
    monkeypatch.setattr(embedder, "embed_queries", lambda texts: np.ones((len(texts), 2)))
    model = EmbedderModel(embedder)
    batches = [{"text": ["a", "b"]}, {"text": ["c"]}]
    assert model.encode(batches, prompt_type=mteb.types.PromptType.query).tolist() == [[1, 1]] * 3
    assert model.encode(batches).shape == (3, embedder.dim)
    assert np.allclose(model.encode(batches)[2], embedder.embed_passages(["c"])[0], atol=1e-6)


def by_cosines(dataset, embedder):
    """nDCG@10 by hand, with one relevant passage a question: 1 / log2(1 + its rank)."""
    ids = list(dataset.texts)
    texts = [f"{dataset.titles[d]} {dataset.texts[d]}".strip() for d in ids]
    cosines = embedder.embed_queries(list(dataset.queries.values()))
    cosines = cosines @ embedder.embed_passages(texts).T
    gains = []
    for query, row in zip(dataset.queries, cosines, strict=True):
        ranked = [ids[i] for i in np.argsort(-row)]
        gains.append(1 / np.log2(2 + ranked.index(next(iter(dataset.qrels[query])))))
    return np.mean(gains)


def test_retrieval(folder, score):
    row = score(open_task(folder(LIGHTS)))
    assert row["type"] == "Retrieval"
    assert row["main_score"] == "ndcg_at_10"
    assert row["score"] == 1  # each question's passage comes first


def test_retrieval_in_chinese(folder, score, lighthouse):
    """The score is that of the embedder's own cosines, whatever an English model makes of it."""
    task = open_task(folder(CHINESE), "cmn-Hans")
    assert task.metadata.languages == ["cmn"]
    assert score(task)["score"] == pytest.approx(
        by_cosines(CHINESE, lighthouse.parts.embedder), abs=1e-5
    )


@pytest.mark.parametrize("reranker", [False, True])
def test_reranking(folder, score, reranker):
    """Of three candidates the relevant one comes first; what is no candidate does not count."""
    candidates = {"q1": ["fog", "bell", "grace"], "q2": ["fog", "bell", "oil"]}
    row = score(open_task(folder(LIGHTS, candidates)), reranker=reranker)
    assert row["type"] == "Reranking"
    assert row["score"] == 1


def test_a_reranker_scores_pairs_as_it_does_in_a_search(lighthouse):
    """Each pair alone, whatever the batches; late interaction's weights are of these passages."""
    model = model_of(lighthouse.parts, reranker=True)
    questions = [LIGHTS.queries["q1"]] * 2 + [LIGHTS.queries["q2"]] * 2
    passages = [LIGHTS.texts[d] for d in ("grace", "oil", "grace", "oil")]
    scores = model.predict([{"text": questions[:3]}, {"text": questions[3:]}], [{"text": passages}])
    assert scores.shape == (4,)
    assert scores[0] > scores[1]
    assert scores[3] > scores[2]


def test_similarity(tmp_path, score):
    rows = [{"sentence1": a, "sentence2": b, "score": s} for a, b, s in PAIRS]
    write(tmp_path / "pairs" / "pairs.jsonl", rows)
    row = score(open_task(str(tmp_path / "pairs")))
    assert row["main_score"] == "cosine_spearman"
    assert row["score"] > 0.8


def test_the_same_again_is_not_computed_again(folder, lighthouse, tmp_path, monkeypatch):
    model, task = model_of(lighthouse.parts, reranker=False), open_task(folder(LIGHTS))
    first = run(model, [task], tmp_path / "out", progress=False)
    monkeypatch.setattr(model, "encode", None)  # to call it would fail
    again = run(model, [open_task(folder(LIGHTS))], tmp_path / "out", progress=False)
    assert again.about()["rows"] == first.about()["rows"]


def test_what_cannot_be_done_is_said(folder, score, tmp_path):
    with pytest.raises(InvalidInput, match="neither a folder nor a task of MTEB"):
        open_task("NoSuchTask")
    with pytest.raises(InvalidInput, match="is a task of Retrieval: a reranker needs candidates"):
        score(open_task(folder(LIGHTS)), reranker=True)
    with pytest.raises(InvalidInput, match="no candidates for question 'q2'"):
        open_task(folder(LIGHTS, {"q1": ["fog"]}))
    with pytest.raises(InvalidInput, match="document 'no' of question 'q1'"):
        open_task(folder(LIGHTS, {"q1": ["no"], "q2": ["oil"]}))
    with pytest.raises(InvalidInput, match="'chinese' is no language"):
        open_task(folder(LIGHTS, {"q1": ["fog"], "q2": ["oil"]}), "chinese")
    write(tmp_path / "bad" / "pairs.jsonl", [{"sentence1": "a", "score": 1}])
    with pytest.raises(InvalidInput, match=r"pairs\.jsonl:1: a line is an object with sentence1"):
        open_task(str(tmp_path / "bad"))


def test_the_command(folder, tmp_path):
    arguments = ["eval", "mteb", folder(LIGHTS), "--out", str(tmp_path), "--profile", "starter"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "1.0000" in done.output
    assert callable(show)
