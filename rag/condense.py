"""Follow-up and history -> a question that stands alone."""

from collections.abc import Sequence

from rag.generate import Generator, LanguageModelGenerator
from rag.prompt import condense_messages
from rag.sampling import Sampling
from rag.types import Message

_GREEDY = Sampling(do_sample=False, max_new_tokens=96, stop=("\n",))


def condense(
    question: str, history: Sequence[Message], generator: Generator
) -> tuple[str, tuple[str, ...]]:
    """(the question to retrieve with, notes). Rewritten only when there is history and an LM."""
    if not history:
        return question, ()
    if not isinstance(generator, LanguageModelGenerator):
        return question, (f"{generator.id} cannot rewrite a follow-up: the history was not used",)
    asked = condense_messages(question, history, marks=generator.model.marks)
    with generator.model.stream(asked, _GREEDY) as stream:
        written = "".join(stream)
    # A model may write anything; what is searched for is a line of text.
    rewritten = "".join(sign for sign in written if sign.isprintable()).strip()
    if not rewritten:
        return question, (f"{generator.id} rewrote the follow-up to nothing: asked as it was",)
    return rewritten, ()
