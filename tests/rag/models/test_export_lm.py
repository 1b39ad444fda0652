import json
import shutil

import openvino as ov
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from rag.models import export_lm
from rag.models.cache import NotConvertible
from rag.models.cpu import Cpu
from rag.models.export_lm import export_or_refuse
from rag.models.genai import Description, load_causal_lm
from rag.models.load import ModelFiles, resolve

F32 = ("f32",)


@pytest.fixture(scope="module")
def graph(tiny, lm_cache):
    """The tiny qwen2 as converted, weights in float32, and in torch."""
    files, cpu = resolve(str(tiny["qwen2"])), Cpu(cache=lm_cache, precision="f32")
    load_causal_lm(files, cpu).close()
    (path,) = lm_cache.glob("qwen2-*/openvino_model.xml")
    return ov.Core().read_model(path), AutoModelForCausalLM.from_pretrained(tiny["qwen2"])


@pytest.fixture
def converted(graph, monkeypatch):
    monkeypatch.setattr(export_lm, "_convert", lambda *_: graph[0])


def export(folder, part, precisions=F32, *, min_agreement=0.9, said=None):
    part.mkdir()
    cpu = Cpu(on_progress=(said if said is not None else []).append)
    return export_or_refuse(
        ModelFiles("tiny", folder, "1"), part, precisions, cpu, min_agreement=min_agreement
    )


def with_generation(tiny, folder, **own):
    shutil.copytree(tiny["qwen2"], folder)
    own = {"eos_token_id": 0, **own}
    (folder / "generation_config.json").write_text(json.dumps(own), "utf-8")
    return folder


@pytest.mark.parametrize("name", ["qwen2", "llama", "gpt_neox"])
def test_a_model_in_f32_writes_torchs_tokens(tiny, lm_cache, name):
    files, cpu = resolve(str(tiny[name])), Cpu(cache=lm_cache, precision="f32")
    load_causal_lm(files, cpu).close()
    (manifest,) = lm_cache.glob(f"{name}-*/manifest.json")
    record = json.loads(manifest.read_text("utf-8"))["record"]
    figures = record["figures"]
    assert record["precision"] == "f32"
    # Prompts of 9, 40, 75 and 104 tokens, 24 written after each, twice.
    assert figures["tokens"] == 4 * 24 * 2
    assert (figures["agreement"], figures["regret"]) == (1.0, 0.0)
    assert figures["max logprob error"] < 1e-3


@pytest.mark.usefixtures("converted")
def test_what_is_written_is_what_transformers_uses(tiny, tmp_path):
    record = export(tiny["qwen2"], tmp_path / "part")
    assert record["precision"] == "f32"
    about = Description.load(tmp_path / "part")
    tokenizer = AutoTokenizer.from_pretrained(tiny["qwen2"])
    assert about.chat_template == tokenizer.chat_template
    assert about.special_tokens == tokenizer.special_tokens_map
    assert about.context_window == 128
    assert about.generation["eos_token_ids"] == [0]
    text = "Der Zug nach Lübeck fährt um sieben Uhr ab."
    own = Tokenizer.from_file(str(tmp_path / "part" / "tokenizer.json"))
    assert own.encode(text).ids == tokenizer(text)["input_ids"]
    # 2 layers, keys and values of 2 heads of 8 numbers of 4 bytes, 32 tokens.
    assert about.block_bytes == 2 * 2 * 2 * 8 * 4 * 32


@pytest.mark.usefixtures("converted")
def test_auto_takes_the_first_precision_that_agrees(tiny, tmp_path):
    said = []
    record = export(tiny["qwen2"], tmp_path / "part", ("int8", "f32"), min_agreement=1, said=said)
    assert record["precision"] == Description.load(tmp_path / "part").precision == "f32"
    # Random weights this large make a chaotic model: eight bits choose another token somewhere.
    assert record["tried"]["int8"]["agreement"] < 1 == record["tried"]["f32"]["agreement"]
    assert any("int8 is not used: agreement is 0." in line for line in said)


@pytest.mark.usefixtures("converted")
def test_int8_is_used_where_it_agrees(tiny, tmp_path):
    record = export(tiny["qwen2"], tmp_path / "part", ("int8", "f32"), min_agreement=0.5)
    assert record["precision"] == "int8"
    assert list(record["tried"]) == ["int8"]
    stored = ov.Core().read_model(tmp_path / "part" / "openvino_model.xml")
    weights = [op for op in stored.get_ops() if op.get_type_name() == "Constant"]
    assert any(op.get_element_type() == ov.Type.u8 for op in weights)


@pytest.mark.usefixtures("converted")
def test_another_models_weights_are_refused(tiny, tmp_path, graph):
    """The graph of one model and the torch weights of another: parity must see it."""
    folder = shutil.copytree(tiny["qwen2"], tmp_path / "other")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        type(graph[1])(graph[1].config).save_pretrained(folder)
    record = export(folder, tmp_path / "part")
    assert "writes other tokens than torch with tiny in f32: agreement is 0." in record["refused"]
    assert list((tmp_path / "part").iterdir()) == []


def test_agreement_is_what_torch_would_have_chosen(graph):
    _, model = graph
    prompt = [5, 6, 7]
    with torch.inference_mode():
        scores = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        best, other = scores.topk(2).indices.tolist()
        after = model(torch.tensor([[*prompt, other]])).logits[0, -1].log_softmax(-1)
    # The second-best token, then the best after it; log-probabilities 0.1 and 0.3 too low.
    answer = export_lm._Answer(
        prompt, [other, int(after.argmax())], [float(scores[other]) - 0.1, float(after.max()) - 0.3]
    )
    figures = export_lm._agreement(model, [answer])
    assert figures["tokens"] == 2
    assert figures["agreement"] == 0.5
    assert figures["regret"] == pytest.approx(float(scores[best] - scores[other]) / 2, abs=1e-5)
    assert figures["mean logprob error"] == pytest.approx(0.2, abs=1e-5)
    assert figures["max logprob error"] == pytest.approx(0.3, abs=1e-5)


@pytest.mark.parametrize(
    "own", [{"typical_p": 0.9}, {"no_repeat_ngram_size": 3}, {"min_new_tokens": 5}]
)
@pytest.mark.usefixtures("converted")
def test_sampling_that_the_pipeline_does_not_have_is_left_to_torch(tiny, tmp_path, own):
    folder = with_generation(tiny, tmp_path / "model", **own)
    (name,) = own
    assert f"tiny asks for {name}=" in export(folder, tmp_path / "part")["refused"]


@pytest.mark.usefixtures("converted")
def test_values_that_change_nothing_are_no_reason_to_refuse(tiny, tmp_path):
    own = {"typical_p": 1.0, "no_repeat_ngram_size": 0, "top_k": 20, "repetition_penalty": 1.1}
    folder = with_generation(tiny, tmp_path / "model", **own)
    assert "refused" not in export(folder, tmp_path / "part")
    generation = Description.load(tmp_path / "part").generation
    assert (generation["top_k"], generation["repetition_penalty"]) == (20, 1.1)


def test_a_tracer_that_fails_leaves_the_model_to_torch(tiny, monkeypatch):
    def fail(*_, **__):
        raise TypeError("first line\nno such input")

    model = AutoModelForCausalLM.from_pretrained(tiny["qwen2"])
    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(NotConvertible, match="does not export to OpenVINO: no such input"):
        export_lm._convert(ModelFiles("tiny", tiny["qwen2"], "1"), model)
