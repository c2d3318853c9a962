"""The bound on waiting tasks holds exactly, whatever the order in which things become known."""

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.errors import Code
from schemas.subjects import Lane
from services.api.admission import Admission, Counted, Place

LANES = [Lane("image", "any", "normal", number) for number in range(2)]
TENANTS = ("ada", "bob")
LIMIT, TENANT_LIMIT = 5, 3


def reserved(admission: Admission, lane: Lane = LANES[0], tenant: str = "ada", **counted: int) -> Place:
    place = admission.reserve(lane, tenant, Counted(**counted))
    assert isinstance(place, Place)
    return place


def refused(admission: Admission, tenant: str = "ada", **counted: int) -> Code:
    code = admission.reserve(LANES[0], tenant, Counted(**counted))
    assert isinstance(code, Code)
    return code


def test_one_more_than_the_limit_is_refused() -> None:
    admission = Admission(2)
    reserved(admission)
    reserved(admission)
    assert refused(admission) is Code.QUEUE_FULL


def test_what_was_given_back_can_be_taken_again() -> None:
    admission = Admission(1, 1)
    admission.abort(reserved(admission))
    reserved(admission)


def test_a_stored_task_counts_until_the_projector_has_counted_it() -> None:
    admission = Admission(1)
    admission.commit(reserved(admission), 7)
    assert refused(admission, checkpoint=6) is Code.QUEUE_FULL
    assert refused(admission, checkpoint=7, waiting=1) is Code.QUEUE_FULL
    reserved(admission, checkpoint=8)


def test_kinds_do_not_take_each_others_places() -> None:
    admission = Admission(1, 1)
    reserved(admission)
    reserved(admission, Lane("speech", "any", "normal", 0))


def test_one_tenant_s_tasks_leave_room_for_another_s() -> None:
    admission = Admission(3, 2)
    reserved(admission)
    admission.commit(reserved(admission), 7)
    assert refused(admission, checkpoint=6) is Code.TENANT_QUEUE_FULL
    reserved(admission, tenant="bob", checkpoint=6)
    assert refused(admission, tenant="bob", checkpoint=6) is Code.QUEUE_FULL


def test_a_tenant_s_tasks_count_until_the_projector_has_counted_them() -> None:
    admission = Admission(9, 2)
    admission.commit(reserved(admission), 7)
    admission.commit(reserved(admission), 8)
    assert refused(admission, checkpoint=7, waiting=1, of_tenant=1) is Code.TENANT_QUEUE_FULL
    reserved(admission, checkpoint=8, waiting=1, of_tenant=1)


class AdmissionMachine(RuleBasedStateMachine):
    """The log, a projector that lags behind, and tasks that are started: the bounds against the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(LIMIT, TENANT_LIMIT)
        self.in_flight: list[Place] = []
        self.log: list[tuple[int, str]] = []
        self.checkpoint = 0
        self.sequence = 0
        self.waiting: Counter[str] = Counter()

    def unseen(self, up_to: int | None = None) -> Counter[str]:
        """Count by tenant what the log has and the projector has not."""
        end = self.sequence if up_to is None else up_to
        return Counter(tenant for sequence, tenant in self.log if self.checkpoint < sequence <= end)

    @rule(lane=st.sampled_from(LANES), tenant=st.sampled_from(TENANTS))
    def reserve(self, lane: Lane, tenant: str) -> None:
        counted = Counted(self.checkpoint, self.waiting.total(), self.waiting[tenant])
        place = self.admission.reserve(lane, tenant, counted)
        there = self.waiting + self.unseen() + Counter(place.tenant for place in self.in_flight)
        if there.total() >= LIMIT:
            assert place is Code.QUEUE_FULL
        elif there[tenant] >= TENANT_LIMIT:
            assert place is Code.TENANT_QUEUE_FULL
        else:
            assert isinstance(place, Place)
            self.in_flight.append(place)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), stored=st.booleans())
    def answer(self, data: st.DataObject, *, stored: bool) -> None:
        place = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        if stored:
            self.sequence += 1
            self.log.append((self.sequence, place.tenant))
            self.admission.commit(place, self.sequence)
        else:
            self.admission.abort(place)

    @precondition(lambda self: self.checkpoint < self.sequence)
    @rule(data=st.data())
    def project(self, data: st.DataObject) -> None:
        reached = data.draw(st.integers(self.checkpoint + 1, self.sequence))
        self.waiting += self.unseen(reached)
        self.checkpoint = reached

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def run_one(self, data: st.DataObject) -> None:
        """A dispatcher starts a task, and the projector has seen everything up to that."""
        started = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting += self.unseen()
        self.waiting -= Counter([started])
        self.sequence += 1
        self.checkpoint = self.sequence

    @invariant()
    def everything_adds_up(self) -> None:
        added = self.admission.added("image")
        assert sum(map(self.admission.in_lane, LANES)) == added
        assert sum(self.admission.added_of("image", tenant) for tenant in TENANTS) == added


AdmissionMachine.TestCase.settings = AdmissionMachine.TestCase.settings.__class__(
    max_examples=100, stateful_step_count=30, deadline=None
)
TestAdmission = AdmissionMachine.TestCase
