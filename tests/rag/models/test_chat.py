from rag.models.chat import INTRO, fold_system, write_form
from rag.types import Message

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
