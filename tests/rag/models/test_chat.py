import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from rag.errors import InvalidInput
from rag.models.chat import INTRO, ChatTemplate, fold_system, render_chat, write_form
from rag.types import Message
from tests.tiny_models import CHATML

TALK = (
    Message("system", "Be brief."),
    Message("user", "Hello"),
    Message("assistant", "Hi."),
    Message("user", "Who are you?"),
)


def test_dolly_form_is_that_of_its_own_pipeline():
    expected = f"{INTRO}\n\n### Instruction:\nHello\n\n### Response:\n"
    assert write_form("dolly", TALK[1:2]) == expected


def test_alpaca_form_keeps_turns_and_puts_the_system_message_after_the_intro():
    assert write_form("alpaca", TALK) == (
        f"{INTRO}\n\nBe brief.\n\n### Instruction:\nHello\n\n### Response:Hi."
        "\n\n### Instruction:\nWho are you?\n\n### Response:"
    )


def test_plain_form_is_the_contents():
    assert write_form("plain", TALK[:2]) == "Be brief.\n\nHello"


def test_folding_puts_the_system_message_into_the_first_user_turn():
    assert fold_system(TALK) == (
        Message("user", "Be brief.\n\nHello"),
        Message("assistant", "Hi."),
        Message("user", "Who are you?"),
    )


def test_folding_without_a_user_turn_makes_one():
    assert fold_system(TALK[:1]) == (Message("user", "Be brief."),)


LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}\n{% endfor %}"
)
# Whatever else templates of the hub use: a namespace, dict(), tojson, loop controls, blocks with
# line breaks around them, and the mark around the assistant's text.
ODD = """
{%- set found = namespace(last=none, first=dict(role='nobody')) %}
    {% for m in messages %}
    {% if loop.index > 3 %}{% break %}{% endif %}
    {% set found.last = m %}
{% generation %}{{ m | tojson }}{{ {'b': '<é>', 'a': 1} | tojson(indent=2, sort_keys=true) }}
{% endgeneration %}
    {% endfor %}
{{ found.last['content'] }} {{ found.first.role }} {{ dict.fromkeys(['x'], 1) }}
{{ tools is none }} {{ documents is none }} {{ strftime_now('%Y') }}
{{ additional_special_tokens is defined }} {{ bos_token }}
"""


def in_transformers(template, messages):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0})), bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    turns = [{"role": message.role, "content": message.content} for message in messages]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return rendered, tokenizer.special_tokens_map


@pytest.mark.parametrize("template", [CHATML, LLAMA3, ODD], ids=["chatml", "llama3", "odd"])
def test_a_template_reads_as_in_transformers(template):
    messages = (*TALK, Message("user", ' <b>Café</b> & "quotes"\n\n'))
    expected, special = in_transformers(template, messages)
    assert ChatTemplate(template, special)(messages) == expected


def test_a_template_that_refuses_the_system_role_gets_it_within_the_first_question():
    folded = fold_system(TALK)
    expected, special = in_transformers(STRICT, folded)
    template = ChatTemplate(STRICT, special)
    with pytest.raises(TemplateError, match="No system role"):
        template(TALK)
    assert render_chat(template, TALK, "a model") == expected


def test_a_conversation_that_a_template_refuses_in_every_form_is_invalid():
    template = ChatTemplate(STRICT, {"eos_token": "</s>"})
    with pytest.raises(InvalidInput, match=r"a model refuses .*Roles must alternate"):
        render_chat(template, (Message("user", "one"), Message("user", "two")), "a model")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.append({}) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% set ns = namespace(_x=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ dict.mro() }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(template):
    with pytest.raises(TemplateError):
        ChatTemplate(template, {})(TALK)
