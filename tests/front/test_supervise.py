"""A front end that does not do what it is told is killed, and a question to it is not waited for."""

import socket

import pytest
import trio
import trio.testing

from wfserve.front import asking, supervise
from wfserve.front.asking import Questions
from wfserve.front.messages import Answer, Ask, Show
from wfserve.front.supervise import FrontEnd
from wfserve.transport.channel import Channel


class Process:
    killed = False

    def __init__(self):
        self.news = trio.Event()

    def kill(self):
        self.killed = True
        self.news.set()

    def wait(self):
        return -9


@pytest.fixture
async def wires():
    near, far = map(Channel, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    yield near, far
    near.close()
    far.close()


@pytest.fixture
def front(wires):
    return FrontEnd(0, supervise.FIRST_SEGMENT, wires[0], Process())


async def test_who_is_told_is_waited_for(front, nursery):
    front.show(Show(1, "w", None))
    front.show(Show(2, "x", None))
    told = trio.Event()

    async def wait():
        await front.told()
        told.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    front.show(Show(3, "y", None))  # nobody waits for that yet
    front.did(2)
    await trio.testing.wait_all_tasks_blocked()
    assert not told.is_set()
    front.did(1)
    await told.wait()
    assert not front._process.killed


async def test_who_does_not_obey_is_killed(front, monkeypatch):
    """And has been waited for until it is dead: it may answer a last request, by what was shown before."""
    monkeypatch.setattr(supervise, "OBEDIENCE", 0.01)
    front.show(Show(1, "w", None))
    told = []

    async def wait():
        await front.told()
        told.append(front.dead)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await front._process.news.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert told == []
            await front.reap()
    assert told == [True]


@pytest.mark.parametrize("answers", [0, 3])
async def test_who_says_nothing_any_more_is_killed(front, wires, monkeypatch, answers):
    monkeypatch.setattr(supervise, "OBEDIENCE", 0.05)
    monkeypatch.setattr(supervise, "REST", 0.001)
    monkeypatch.setattr(asking, "PATIENCE", 0.01)
    asked = 0

    async def say():
        nonlocal asked
        while True:
            question, _ = await wires[1].receive()
            asked += 1
            if asked <= answers:
                front.questions.hear(Answer(question.ticket, True))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            nursery.start_soon(front.watch)
            await front._process.news.wait()
            nursery.cancel_scope.cancel()
    assert asked > answers


async def test_who_cannot_be_told_for_want_of_a_descriptor_is_killed(front):
    """A dead front end is replaced; one that has not heard of a change would go on with what was before."""
    front.send(Show(1, "w", None), -1)
    assert front._process.killed


async def test_nobody_waits_for_the_dead(front):
    front.show(Show(1, "w", None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(front.told)
        await trio.testing.wait_all_tasks_blocked()
        await front.reap()


async def test_who_takes_nothing_is_killed(front, monkeypatch):
    monkeypatch.setattr("wfserve.transport.channel.MOST_WAITING", 3)
    for number in range(10_000):
        front.show(Show(number, "w" * 10_000, None))
        if front._process.killed:
            return
    raise AssertionError("it could have taken for ever")


async def test_who_takes_nothing_is_killed_by_a_question_too(front, monkeypatch):
    monkeypatch.setattr("wfserve.transport.channel.MOST_WAITING", 0)
    monkeypatch.setattr(asking, "PATIENCE", 0.01)
    assert await front.questions.ask("alive") is None  # the rest of the server does not hear of it
    assert front._process.killed


async def test_questions_are_answered_each_by_its_own(wires):
    near, far = wires
    questions = Questions(near.send)
    answers = {}

    async def ask(what):
        answers[what] = await questions.ask(what)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "health")
        nursery.start_soon(ask, "families")
        asked = [(await far.receive())[0] for _ in range(2)]
        for question in reversed(asked):
            assert isinstance(question, Ask)
            questions.hear(Answer(question.ticket, f"of {question.what}"))
    assert answers == {"health": "of health", "families": "of families"}


async def test_a_question_is_given_up(wires, monkeypatch):
    monkeypatch.setattr(asking, "PATIENCE", 0.01)
    near, far = wires
    questions = Questions(near.send)
    assert await questions.ask("health") is None
    (question, _) = await far.receive()
    questions.hear(Answer(question.ticket, True))  # too late: nobody is there to hear it
    assert questions._open == questions._values == {}
