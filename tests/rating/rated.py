"""Studies of a few answers, and a way to rate all of them."""

from anymal_lib.instruct.examples import Item
from anymal_lib.rating import RatedItem


def items(count=6, systems=("good", "bad")):
    """Items whose answers say which system they come from."""
    return [
        RatedItem(
            f"image/{k}",
            "What is it?",
            (Item("image", str(k)),),
            {system: f"{system} answer {k}" for system in systems},
        )
        for k in range(count)
    ]


def rate_all(session, choose):
    """Rate what is open; `choose` gets a question's name and the answers in view."""
    while session.current is not None:
        for question in session.study.questions:
            session.rate(question.name, choose(question.name, session.responses))
    return session
