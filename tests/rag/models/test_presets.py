import json
import shutil

import pytest

from rag.errors import InvalidInput, ModelUnavailable
from rag.models.presets import (
    EMBEDDERS,
    EmbedderPreset,
    embedder_preset,
    longest_input,
    prompt_form,
    split_task,
)
from tests.tiny_models import write_pooling

BGE_INSTRUCTION = "Represent this sentence for searching relevant passages: "


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of the bge folder, under a name that means nothing, to be changed."""
    return shutil.copytree(tiny["bge"], tmp_path / "some-model")


def test_the_default_model():
    assert EMBEDDERS["BAAI/bge-small-en"] == EmbedderPreset(
        pooling="cls",
        max_tokens=512,
        normalize=True,
        query_instruction=BGE_INSTRUCTION,
        passage_instruction="",
        languages=("en",),
    )


def test_known_ids_need_no_files(tmp_path):
    e5 = embedder_preset("intfloat/multilingual-e5-base", tmp_path)
    assert (e5.pooling, e5.query_instruction, e5.passage_instruction, e5.languages) == (
        "mean",
        "query: ",
        "passage: ",
        ("multilingual",),
    )
    mini = embedder_preset("sentence-transformers/all-MiniLM-L6-v2", tmp_path)
    assert (mini.pooling, mini.max_tokens, mini.query_instruction) == ("mean", 256, "")
    gte = embedder_preset("thenlper/gte-base", tmp_path)
    assert (gte.pooling, gte.max_tokens, gte.query_instruction) == ("mean", 512, "")


def test_llm_embedder_has_an_instruction_for_each_task_and_side(tmp_path):
    chat = embedder_preset("BAAI/llm-embedder#chat", tmp_path)
    assert chat.query_instruction == "Embed this dialogue to find useful historical dialogues: "
    assert chat.passage_instruction == "Embed this historical dialogue for retrieval: "
    assert embedder_preset("BAAI/llm-embedder", tmp_path) == EMBEDDERS["BAAI/llm-embedder#qa"]
    tasks = [preset for known, preset in EMBEDDERS.items() if "#" in known]
    assert len({preset.query_instruction for preset in tasks}) == 6
    assert all(p.query_instruction.endswith(": ") for p in tasks)
    assert all(p.passage_instruction.endswith(": ") for p in tasks)


def test_tasks_are_split_off_for_llm_embedder_only():
    assert split_task("BAAI/llm-embedder#icl") == ("BAAI/llm-embedder", "icl")
    assert split_task("/models/llm-embedder") == ("/models/llm-embedder", "qa")
    assert split_task("/data/c#/model") == ("/data/c#/model", "")


def test_an_unknown_task_is_refused_with_those_there_are():
    with pytest.raises(InvalidInput, match="qa, convsearch, chat, lrlm, icl, tool"):
        split_task("BAAI/llm-embedder#poetry")


def test_an_unknown_model_is_read_from_its_own_files(folder):
    assert embedder_preset("acme/some-model", folder) == EmbedderPreset(
        pooling="cls", max_tokens=64, normalize=True, languages=(), lower_case=True
    )


def test_prompts_pooling_and_normalising_of_an_unknown_model(folder):
    prompts = {"prompts": {"query": "Q: ", "passage": "P: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts), "utf-8")
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    (folder / "modules.json").write_text(json.dumps(modules[:2]), "utf-8")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}', "utf-8")
    preset = embedder_preset("acme/some-model", folder)
    assert (preset.query_instruction, preset.passage_instruction) == ("Q: ", "P: ")
    assert (preset.pooling, preset.normalize) == ("last", False)


def test_a_default_prompt_is_for_both_sides(folder):
    settings = {"prompts": {"all": "A: "}, "default_prompt_name": "all"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings), "utf-8")
    preset = embedder_preset("acme/some-model", folder)
    assert (preset.query_instruction, preset.passage_instruction) == ("A: ", "A: ")


def test_a_local_copy_keeps_the_instruction_and_its_own_pooling(tiny, tmp_path):
    copy = shutil.copytree(tiny["bge"], tmp_path / "bge-small-en")
    write_pooling(copy, "mean_tokens")
    preset = embedder_preset(str(copy), copy)
    assert preset.query_instruction == BGE_INSTRUCTION
    assert (preset.pooling, preset.max_tokens) == ("mean", 64)


def test_a_local_copy_without_configuration_is_the_model_of_its_name(tmp_path):
    assert embedder_preset("/models/bge-small-en/", tmp_path) == EMBEDDERS["BAAI/bge-small-en"]


def test_without_configuration_the_error_says_what_is_missing(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"acme/x .* no modules\.json") as caught:
        embedder_preset("acme/x", tmp_path)
    assert "BAAI/bge-small-en" in caught.value.hint


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        (("max_tokens",), "pools by max_tokens"),
        (("cls_token", "mean_tokens"), r"pools by cls_token \+ mean_tokens"),
        ((), "pools by nothing"),
    ],
)
def test_other_poolings_are_refused(folder, modes, message):
    write_pooling(folder, *modes)
    with pytest.raises(ModelUnavailable, match=message):
        embedder_preset("acme/some-model", folder)


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [("Dense", "3_Dense", "not supported: Dense"), ("Transformer", "0_T", "subfolder 0_T")],
)
def test_other_modules_are_refused(folder, kind, path, message):
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    modules.append({"path": path, "type": f"sentence_transformers.models.{kind}"})
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    with pytest.raises(ModelUnavailable, match=message):
        embedder_preset("acme/some-model", folder)


def test_broken_files_are_named(folder):
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"1_Pooling.config\.json is missing"):
        embedder_preset("acme/some-model", folder)
    (folder / "modules.json").write_text("[", "utf-8")
    with pytest.raises(ModelUnavailable, match=r"modules\.json is not valid JSON"):
        embedder_preset("acme/some-model", folder)


def test_the_longest_input_leaves_out_robertas_offset(tiny, tmp_path):
    assert longest_input("r", tiny["reranker"]) == 64
    config = {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    assert longest_input("r", tmp_path) == 512


def test_no_longest_input_is_an_error(tmp_path):
    with pytest.raises(ModelUnavailable, match="names no longest input"):
        longest_input("acme/x", tmp_path)


@pytest.mark.parametrize(
    ("model_id", "form"),
    [("databricks/dolly-v2-3b", "dolly"), ("/m/dolly-v2-3b", "dolly"), ("gpt2", "alpaca")],
)
def test_prompt_forms(model_id, form):
    assert prompt_form(model_id) == form
