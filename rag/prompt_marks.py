"""Marks of the chat templates that are in use, as regular expressions; see `rag.neutral`."""

CHAT_MARKS = (
    r"<\|[^<>|\n]{1,60}\|>",  # ChatML, Llama 3, Phi, GLM, GPT-OSS
    r"<\uFF5C[^<>\n]{1,60}\uFF5C>",  # DeepSeek writes them with full-width bars
    # Llama 2, Mistral
    r"<</?SYS>>|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\]",
    r"</?(?:start_of_turn|end_of_turn|bos|eos|pad|unk|s)>",  # Gemma, Llama, T5
    r"</?(?:tool_call|tool_response|tools|think)>",  # Qwen, Hermes
    r"</?passage\b[^<>\n]{0,200}>?",  # our own
    r"^[ \t]*#{3} (?:Instruction|Response|Input|End)\b",  # Alpaca, Dolly
    r"\[(?:gMASK|CLS|SEP|MASK|PAD|UNK)\]",
)
