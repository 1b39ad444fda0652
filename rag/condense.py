"""Follow-up and history -> a question that stands alone.

A language model rewrites it. Where none runs, `rag.topic` hands on what was talked about.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from rag.generate import Generator, LanguageModelGenerator, TextStream
from rag.history import recent
from rag.prompt import condense_messages
from rag.sampling import Sampling
from rag.topic import with_topic
from rag.types import Message

_GREEDY = Sampling(do_sample=False, max_new_tokens=96, stop=("\n",))


def condense(
    question: str,
    history: Sequence[Message],
    generator: Generator,
    counted: Callable[[TextStream], AbstractContextManager[TextStream]] = nullcontext,
) -> tuple[str, tuple[str, ...]]:
    """(the question to retrieve with, notes). The same question where there is no history.

    `counted` is put around what the language model writes, if one does.
    """
    if not history:
        return question, ()
    if not isinstance(generator, LanguageModelGenerator):
        asked = with_topic(question, history)
        return asked, (f"asked as {asked!r}, by the history",) if asked != question else ()
    asked_for, notes = _fitting(question, history, generator)
    with generator.model.stream(asked_for, _GREEDY) as stream, counted(stream) as pieces:
        written = "".join(pieces)
    # A model may write anything; what is searched for is a line of text.
    rewritten = "".join(sign for sign in written if sign.isprintable()).strip()
    if not rewritten:
        said = f"{generator.id} rewrote the follow-up to nothing: asked as it was"
        return question, (*notes, said)
    return rewritten, notes


def _fitting(
    question: str, history: Sequence[Message], generator: LanguageModelGenerator
) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """(the request to rewrite, with as much of the latest history as the window holds, notes)."""
    model = generator.model
    room = model.context_window - (_GREEDY.max_new_tokens or 0)
    tokens = room
    while True:
        latest, cuts = recent(history, tokens, model.count_tokens)
        asked = condense_messages(question, latest, marks=model.marks)
        if not latest or model.count_tokens(model.render(asked)) <= room:
            return asked, tuple(f"the follow-up was rewritten without {cut.what}" for cut in cuts)
        tokens //= 2
