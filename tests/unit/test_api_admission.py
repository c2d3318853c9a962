"""The bound on waiting tasks holds exactly, whatever the order in which things become known."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.subjects import Lane
from services.api.admission import Admission, Place

LANES = [Lane("image", "any", "normal", number) for number in range(2)]
LIMIT = 5


def test_one_more_than_the_limit_is_refused() -> None:
    admission = Admission(2)
    assert admission.reserve(LANES[0], 0, 0)
    assert admission.reserve(LANES[0], 0, 0)
    assert admission.reserve(LANES[0], 0, 0) is None


def test_what_was_given_back_can_be_taken_again() -> None:
    admission = Admission(1)
    place = admission.reserve(LANES[0], 0, 0)
    assert place
    admission.abort(place)
    assert admission.reserve(LANES[0], 0, 0)


def test_a_stored_task_counts_until_the_projector_has_counted_it() -> None:
    admission = Admission(1)
    place = admission.reserve(LANES[0], 0, 0)
    assert place
    admission.commit(place, 7)
    assert admission.reserve(LANES[0], 6, 0) is None
    assert admission.reserve(LANES[0], 7, 1) is None
    assert admission.reserve(LANES[0], 8, 0)


def test_kinds_do_not_take_each_others_places() -> None:
    admission = Admission(1)
    assert admission.reserve(LANES[0], 0, 0)
    assert admission.reserve(Lane("speech", "any", "normal", 0), 0, 0)


class AdmissionMachine(RuleBasedStateMachine):
    """The log, a projector that lags behind it, and tasks that are started: the bound against the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(LIMIT)
        self.in_flight: list[Place] = []
        self.log: list[tuple[int, str]] = []
        self.sequence = 0
        self.checkpoint = 0
        self.waiting = 0

    @rule(lane=st.sampled_from(LANES))
    def reserve(self, lane: Lane) -> None:
        place = self.admission.reserve(lane, self.checkpoint, self.waiting)
        unseen = sum(1 for sequence, _ in self.log if sequence > self.checkpoint)
        room = LIMIT - self.waiting - unseen - len(self.in_flight)
        assert (place is not None) == (room > 0)
        if place:
            self.in_flight.append(place)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), stored=st.booleans())
    def answer(self, data: st.DataObject, *, stored: bool) -> None:
        place = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        if stored:
            self.sequence += 1
            self.log.append((self.sequence, place.lane.name))
            self.admission.commit(place, self.sequence)
        else:
            self.admission.abort(place)

    @precondition(lambda self: self.checkpoint < self.sequence)
    @rule(data=st.data())
    def project(self, data: st.DataObject) -> None:
        reached = data.draw(st.integers(self.checkpoint + 1, self.sequence))
        self.waiting += sum(1 for sequence, _ in self.log if self.checkpoint < sequence <= reached)
        self.checkpoint = reached

    @precondition(lambda self: self.waiting)
    @rule()
    def run_one(self) -> None:
        """A dispatcher starts a task, and the projector has seen everything up to that."""
        unseen = sum(1 for sequence, _ in self.log if sequence > self.checkpoint)
        self.sequence += 1
        self.checkpoint = self.sequence
        self.waiting += unseen - 1

    @invariant()
    def lanes_add_up(self) -> None:
        assert sum(map(self.admission.in_lane, LANES)) == self.admission.added("image")


AdmissionMachine.TestCase.settings = AdmissionMachine.TestCase.settings.__class__(
    max_examples=100, stateful_step_count=30, deadline=None
)
TestAdmission = AdmissionMachine.TestCase
