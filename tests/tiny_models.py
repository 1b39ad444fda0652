"""Real-class models with random weights and their own tokenizers, built in a fraction of a second.

Nothing here means anything to a reader of its output; what it shows is that the loading, batching
and generating code does with these classes what transformers and sentence-transformers do.
"""

import json
from pathlib import Path

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

CORPUS = (
    "The ferry leaves the harbour at nine and returns before dusk.",
    "Ragstone quarries supplied the walls of Maidstone and of Rochester castle.",
    "A heron waits in the shallows until a fish swims past its feet.",
    "Der Zug nach Lübeck fährt um sieben Uhr ab; die Fähre wartet nicht.",
    "Bread rises faster in a warm kitchen than in a cold one.",
    "How long does the crossing take when the tide runs against us?",
    "La gare est fermée le dimanche, mais le café d'en face reste ouvert.",
    "### Instruction: count to three. ### Response: one, two, three.",
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT_WINDOW = 128


def bge(folder: Path, *, max_tokens: int = 64) -> Path:
    """A BertModel with bge's sentence-transformers files: CLS pooling, then Normalize."""
    tokenizer = _wordpiece()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=max_tokens, **_bert_sizes()
    )
    _save(BertModel, config, folder)
    _save_tokenizer(
        tokenizer, folder, max_tokens, unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]",
        cls_token="[CLS]", mask_token="[MASK]",
    )  # fmt: skip
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    _write(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ])  # fmt: skip
    (folder / "2_Normalize").mkdir()
    write_pooling(folder, "cls_token")
    _write(
        folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": True}
    )
    return folder


def write_pooling(folder: Path, *modes: str) -> None:
    """`1_Pooling/config.json` as sentence-transformers wrote it before 5.0."""
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
    flags = {f"pooling_mode_{name}": name in modes for name in names}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **flags})


def reranker(folder: Path, *, max_tokens: int = 64, labels: int = 1) -> Path:
    """An XLMRobertaForSequenceClassification with one logit and an XLM-R-like tokenizer."""
    tokenizer = _unigram()
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=max_tokens + 2,
        type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2, num_labels=labels,
        **_bert_sizes(),
    )  # fmt: skip
    _save(XLMRobertaForSequenceClassification, config, folder)
    _save_tokenizer(
        tokenizer, folder, max_tokens, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        sep_token="</s>", pad_token="<pad>", cls_token="<s>",
    )  # fmt: skip
    return folder


def qwen2(folder: Path, *, window: int | None = None) -> Path:
    """A Qwen2ForCausalLM with a ChatML template."""
    tokenizer = _byte_level()
    sizes = {**_lm_sizes(tokenizer), "max_position_embeddings": window or CONTEXT_WINDOW}
    config = Qwen2Config(**sizes, num_key_value_heads=2, initializer_range=0.6)
    _save(Qwen2ForCausalLM, config, folder)
    _save_lm_tokenizer(tokenizer, folder, window, chat_template=CHATML)
    return folder


def llama(folder: Path) -> Path:
    """A LlamaForCausalLM with a SentencePiece-like tokenizer and no chat template."""
    tokenizer = _metaspace_bpe()
    config = LlamaConfig(**_lm_sizes(tokenizer), num_key_value_heads=2, initializer_range=0.6)
    _save(LlamaForCausalLM, config, folder)
    _save_lm_tokenizer(tokenizer, folder)
    return folder


def gpt_neox(folder: Path) -> Path:
    """A GPTNeoXForCausalLM as Dolly is one: no chat template, `### End` a token."""
    tokenizer = _byte_level("### End", "### Instruction:", "### Response:")
    config = GPTNeoXConfig(**_lm_sizes(tokenizer), initializer_range=0.6)
    _save(GPTNeoXForCausalLM, config, folder)
    _save_lm_tokenizer(tokenizer, folder)
    return folder


def gpt2(folder: Path) -> Path:
    """A GPT2LMHeadModel without a chat template."""
    tokenizer = _byte_level()
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=CONTEXT_WINDOW, n_embd=32, n_layer=2,
        n_head=4, bos_token_id=0, eos_token_id=0, initializer_range=0.6,
    )  # fmt: skip
    _save(GPT2LMHeadModel, config, folder)
    _save_lm_tokenizer(tokenizer, folder)
    return folder


def _bert_sizes() -> dict[str, float]:
    # Weights larger than usual, so that different texts get clearly different numbers.
    return {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "initializer_range": 0.3,
    }  # fmt: skip


def _lm_sizes(tokenizer: Tokenizer) -> dict[str, int]:
    return {
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64, "bos_token_id": 0, "eos_token_id": 0,
        "max_position_embeddings": CONTEXT_WINDOW,
    }  # fmt: skip


def _save(model_class: type[PreTrainedModel], config: PreTrainedConfig, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model_class(config).save_pretrained(folder)


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, max_tokens: int, **special: str) -> None:
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_tokens, **special
    ).save_pretrained(folder)


def _save_lm_tokenizer(
    tokenizer: Tokenizer, folder: Path, window: int | None = None, **options: str
) -> None:
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    _save_tokenizer(tokenizer, folder, window or CONTEXT_WINDOW, **special, **options)


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def _byte_level(*marks: str) -> Tokenizer:
    """Every byte is a token, so random ids are often not UTF-8."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _metaspace_bpe() -> Tokenizer:
    """As Llama's: words begin with `▁`, unknown characters fall back to bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<|endoftext|>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _bytes_as_plain_tokens(tokenizer)


def _bytes_as_plain_tokens(tokenizer: Tokenizer) -> Tokenizer:
    # The trainer can only be given the byte tokens as special ones, which decoding would skip.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), "utf-8")
