"""What each model needs to be used as its authors meant.

Pooling, instructions and lengths of the embedders that we know, the prompt form of causal LMs that
have no chat template, and how an unknown embedder says all this itself, in the configuration that
sentence-transformers writes beside the weights.

Which source wins:

- a hub id in the table below: the table. Its strings come from the authors' model cards; the
  configuration files of these very models leave their instructions out;
- a local folder, or a copy under another owner: its own sentence-transformers configuration,
  because a fine-tuned or merged descendant may pool differently. Instructions that it does not
  declare come from the table entry of the same last name (`/models/bge-small-en` is
  `BAAI/bge-small-en`), which also stands in for a folder without any such configuration;
- anything else: the folder's own configuration, and an error naming what is missing without one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rag.errors import InvalidInput, ModelUnavailable

Pooling = Literal["cls", "mean", "last"]
PromptForm = Literal["dolly", "alpaca", "plain"]


@dataclass(frozen=True, slots=True)
class EmbedderPreset:
    """How to turn token vectors into a text's vector, and what to put before the text.

    `max_tokens` counts special tokens and the instruction. `lower_case` lower-cases the text before
    the tokenizer sees it. `languages` is `("multilingual",)` or ISO 639-1 codes; empty: unknown.
    """

    pooling: Pooling
    max_tokens: int
    normalize: bool = True
    query_instruction: str = ""
    passage_instruction: str = ""
    languages: tuple[str, ...] = ("en",)
    lower_case: bool = False


_BGE = EmbedderPreset(
    pooling="cls",
    max_tokens=512,
    query_instruction="Represent this sentence for searching relevant passages: ",
)
_E5 = EmbedderPreset(
    pooling="mean", max_tokens=512, query_instruction="query: ", passage_instruction="passage: "
)
_GTE = EmbedderPreset(pooling="mean", max_tokens=512)
_MULTILINGUAL_E5 = replace(_E5, languages=("multilingual",))

LLM_EMBEDDER = "BAAI/llm-embedder"
_DEFAULT_TASK = "qa"

# task: (query, key) instruction of BAAI/llm-embedder. Vectors of different tasks do not compare.
_LLM_EMBEDDER_TASKS: Mapping[str, tuple[str, str]] = {
    "qa": (
        "Represent this query for retrieving relevant documents: ",
        "Represent this document for retrieval: ",
    ),
    "convsearch": (
        "Encode this query and context for searching relevant passages: ",
        "Encode this passage for retrieval: ",
    ),
    "chat": (
        "Embed this dialogue to find useful historical dialogues: ",
        "Embed this historical dialogue for retrieval: ",
    ),
    "lrlm": (
        "Embed this text chunk for finding useful historical chunks: ",
        "Embed this historical text chunk for retrieval: ",
    ),
    "icl": (
        "Convert this example into vector to look for useful examples: ",
        "Convert this example into vector for retrieval: ",
    ),
    "tool": (
        "Transform this user request for fetching helpful tool descriptions: ",
        "Transform this tool description for retrieval: ",
    ),
}

EMBEDDERS: Mapping[str, EmbedderPreset] = {
    "BAAI/bge-small-en": _BGE,
    "BAAI/bge-small-en-v1.5": _BGE,
    "BAAI/bge-base-en-v1.5": _BGE,
    "BAAI/bge-large-en-v1.5": _BGE,
    **{
        f"{LLM_EMBEDDER}#{task}": EmbedderPreset(
            pooling="cls", max_tokens=512, query_instruction=query, passage_instruction=key
        )
        for task, (query, key) in _LLM_EMBEDDER_TASKS.items()
    },
    "sentence-transformers/all-MiniLM-L6-v2": EmbedderPreset(pooling="mean", max_tokens=256),
    "intfloat/e5-small-v2": _E5,
    "intfloat/e5-base-v2": _E5,
    "intfloat/e5-large-v2": _E5,
    "intfloat/multilingual-e5-small": _MULTILINGUAL_E5,
    "intfloat/multilingual-e5-base": _MULTILINGUAL_E5,
    "intfloat/multilingual-e5-large": _MULTILINGUAL_E5,
    "thenlper/gte-small": _GTE,
    "thenlper/gte-base": _GTE,
    "thenlper/gte-large": _GTE,
}

# As sentence-transformers names them: `pooling_mode_cls_token: true` before 5.0, then
# `pooling_mode: "cls"`.
_POOLING_FLAG = "pooling_mode_"
_POOLINGS: Mapping[str, Pooling] = {
    "cls_token": "cls",
    "cls": "cls",
    "mean_tokens": "mean",
    "mean": "mean",
    "lasttoken": "last",
}

# Prefixes of the last part of a causal LM's id, for models without a chat template.
_PROMPT_FORMS: Mapping[str, PromptForm] = {"dolly-v": "dolly", "alpaca": "alpaca"}


def split_task(model_id: str) -> tuple[str, str]:
    """`BAAI/llm-embedder#chat` is `("BAAI/llm-embedder", "chat")`; the task is "" for other models.

    Without a suffix llm-embedder's task is qa. Raises `InvalidInput` for a task it does not have.
    """
    repo, mark, task = model_id.rpartition("#")
    if not mark:
        repo, task = model_id, ""
    if _last_name(repo) != _last_name(LLM_EMBEDDER):
        return model_id, ""
    task = task or _DEFAULT_TASK
    if task not in _LLM_EMBEDDER_TASKS:
        known = ", ".join(_LLM_EMBEDDER_TASKS)
        raise InvalidInput(f"{LLM_EMBEDDER} has no task {task!r}.", hint=f"Its tasks: {known}.")
    return repo, task


def embedder_preset(model_id: str, folder: Path) -> EmbedderPreset:
    """The preset of an embedder whose files are in `folder`, by the rules of the module docstring.

    Raises `ModelUnavailable` for an unknown model whose folder does not say how to pool, or asks
    for something that is not supported.
    """
    repo, task = split_task(model_id)
    known_id = f"{repo}#{task}" if task else repo
    if known_id in EMBEDDERS:
        return EMBEDDERS[known_id]
    namesake = _namesake(known_id)
    if namesake is None:
        return _own_preset(model_id, folder, prompts={})
    if not (folder / "modules.json").is_file():
        return namesake
    prompts = {"query": namesake.query_instruction, "document": namesake.passage_instruction}
    return replace(_own_preset(model_id, folder, prompts), languages=namesake.languages)


def prompt_form(model_id: str) -> PromptForm:
    """How to write a conversation for a causal LM without a chat template.

    Models that nothing is known of get the Alpaca form: of the forms that models without a template
    were tuned on it is the most common, and a model tuned on none still reads it as a task.
    """
    name = _last_name(model_id).lower()
    forms = (form for prefix, form in _PROMPT_FORMS.items() if name.startswith(prefix))
    return next(forms, "alpaca")


def longest_input(model_id: str, folder: Path) -> int:
    """The most tokens, special ones included, that the encoder in `folder` reads.

    The first limit that its files name, never above the number of its position embeddings. Raises
    `ModelUnavailable` when they name none.
    """
    bert = _read_json(folder / "sentence_bert_config.json")
    config = _read_json(folder / "config.json")
    tokenizer = _read_json(folder / "tokenizer_config.json")
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and "roberta" in str(config.get("model_type")):
        positions -= int(config.get("pad_token_id", 1)) + 1  # RoBERTa counts from the pad id on
    own = bert.get("max_seq_length") or tokenizer.get("model_max_length")
    limits = [n for n in (own, positions) if isinstance(n, int | float) and 0 < n < 1e9]
    if not limits:
        raise ModelUnavailable(
            f"{model_id} names no longest input: sentence_bert_config.json has no max_seq_length, "
            "tokenizer_config.json no model_max_length, config.json no max_position_embeddings."
        )
    return int(min(limits))


def _last_name(model_id: str) -> str:
    return model_id.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _namesake(model_id: str) -> EmbedderPreset | None:
    """The table entry with the same last name, e.g. of a local copy."""
    name = _last_name(model_id)
    return next((preset for known, preset in EMBEDDERS.items() if _last_name(known) == name), None)


def _own_preset(model_id: str, folder: Path, prompts: Mapping[str, str]) -> EmbedderPreset:
    """What the sentence-transformers files in `folder` say; `prompts` where they say nothing."""
    modules = _modules(model_id, folder)
    settings = _read_json(folder / "config_sentence_transformers.json")
    bert = _read_json(folder / "sentence_bert_config.json")
    declared = {name: text for name, text in _prompts(settings).items() if text}
    prompts = {**prompts, **declared}
    default = prompts.get(str(settings.get("default_prompt_name")), "")
    passage_names = ("document", "passage", "corpus")  # the order of encode_document
    return EmbedderPreset(
        pooling=_pooling(model_id, folder / modules["Pooling"] / "config.json"),
        max_tokens=longest_input(model_id, folder),
        normalize="Normalize" in modules,
        query_instruction=prompts.get("query", default),
        passage_instruction=next((prompts[n] for n in passage_names if n in prompts), default),
        languages=(),
        lower_case=bool(bert.get("do_lower_case")),
    )


def _modules(model_id: str, folder: Path) -> dict[str, str]:
    """{"Transformer": "", "Pooling": "1_Pooling", ...}: module class to subfolder."""
    path = folder / "modules.json"
    if not path.is_file():
        raise ModelUnavailable(
            f"{model_id} does not say how its vectors are made: {folder} has no modules.json.",
            hint="Use a model in the sentence-transformers format, or one that Ragstone knows: "
            f"{', '.join(EMBEDDERS)}.",
        )
    modules = {m["type"].rpartition(".")[2]: m.get("path", "") for m in _read_json_list(path)}
    if missing := {"Transformer", "Pooling"} - modules.keys():
        raise ModelUnavailable(f"{path} lists no {' and no '.join(sorted(missing))} module.")
    if extra := modules.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise ModelUnavailable(
            f"{model_id} uses modules that are not supported: {', '.join(sorted(extra))}."
        )
    if modules["Transformer"]:
        raise ModelUnavailable(
            f"{model_id} keeps its weights in the subfolder {modules['Transformer']}, which is not "
            "supported.",
            hint="Save it again with a current sentence-transformers.",
        )
    return modules


def _pooling(model_id: str, path: Path) -> Pooling:
    """The pooling of N_Pooling/config.json, old (`pooling_mode_*` flags) and new (one name)."""
    if not path.is_file():
        raise ModelUnavailable(f"{model_id} does not say how to pool: {path} is missing.")
    config = _read_json(path)
    if config.get("include_prompt") is False:
        raise ModelUnavailable(f"{model_id} pools without its prompt, which is not supported.")
    flagged = [key for key, on in config.items() if key.startswith(_POOLING_FLAG) and on is True]
    modes = config.get("pooling_mode", flagged)
    modes = [modes] if isinstance(modes, str) else list(modes)
    names = [str(mode).removeprefix(_POOLING_FLAG) for mode in modes]
    if len(names) == 1 and names[0] in _POOLINGS:
        return _POOLINGS[names[0]]
    raise ModelUnavailable(
        f"{model_id} pools by {' + '.join(names) or 'nothing'}; supported: cls, mean, last."
    )


def _prompts(settings: Mapping[str, Any]) -> dict[str, str]:
    prompts = settings.get("prompts")
    return dict(prompts) if isinstance(prompts, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} when there is no such file. Raises `ModelUnavailable`."""
    if not path.is_file():
        return {}
    loaded = _parse(path)
    if not isinstance(loaded, dict):
        raise ModelUnavailable(f"{path} does not hold a JSON object.")
    return loaded


def _read_json_list(path: Path) -> list[dict[str, Any]]:
    loaded = _parse(path)
    if not isinstance(loaded, list) or not all(isinstance(m, dict) and "type" in m for m in loaded):
        raise ModelUnavailable(f"{path} does not hold a list of modules.")
    return loaded


def _parse(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelUnavailable(f"{path} is not valid JSON: {error}.") from error
