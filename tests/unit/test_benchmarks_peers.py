"""What of the comparison needs no peer: who is there, how figures are made, the loop of a client."""

import pytest

from benchmarks.peers import asking, brokers, compared, environment
from benchmarks.peers.asking import Wait
from benchmarks.peers.compared import Contender
from benchmarks.peers.roster import PEERS, Peer
from benchmarks.peers.turns import Sizes, Turn


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_s_packages_are_locked(peer: Peer) -> None:
    versions = environment.versions(peer.packages)

    assert versions.count(",") == len(peer.packages) - 1


def test_every_locked_package_has_a_hash() -> None:
    locked = environment.REQUIREMENTS.read_text().replace("\\\n", "").splitlines()

    assert all("--hash=sha256:" in line for line in locked if "==" in line)


def test_a_program_that_nobody_has_is_missing() -> None:
    assert brokers.missing(("sh", "no-such-server")) == ["no-such-server"]


def test_who_is_left_out_is_named_beside_taskfold() -> None:
    taskfold = compared.taskfold(Sizes(1, 1), {"saq": ["redis-server"]})

    assert "left out is saq: no redis-server here" in taskfold.rate_notes


def test_a_contender_has_a_bar_in_each_plot_beside_its_floor() -> None:
    taken = [(Turn(100.0, [1.0], 0.5), Turn(50.0, [4.0], 2.0))]

    figures = compared.figures(_contender("saq"), taken)

    assert [figure.ratio for figure in figures] == [0.5, 4.0, 4.0]
    assert len({figure.series for figure in figures}) == 3


async def test_a_burst_ends_when_the_last_of_its_tasks_has() -> None:
    ended = []

    async def submit(prompt: str) -> Wait:
        async def wait() -> None:
            ended.append(prompt)

        return wait

    await asking.in_burst(submit, 20)

    assert len(ended) == 20


def _contender(name: str) -> Contender:
    return Contender(name=name, take=_never, rate_notes=(), calm_note="", cpu_note="")


async def _never(*_: object) -> Turn:
    raise AssertionError
