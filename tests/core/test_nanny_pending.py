"""The requests that a kernel owes an answer, as a state machine beside a plain dictionary."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from kernel_mgmt.nanny import pending
from kernel_mgmt.nanny.pending import PendingRequest, PendingRequests

ids = st.sampled_from([f"id-{number}" for number in range(8)])
types = st.sampled_from(["execute_request", "complete_request", "kernel_info_request"])


def request(msg_id: str, msg_type: str = "execute_request") -> PendingRequest:
    """Make a request."""
    return PendingRequest("shell", [b"client"], {"msg_id": msg_id, "msg_type": msg_type})


class Pending(RuleBasedStateMachine):
    """Does to the requests and to a model what clients and kernels do."""

    known = Bundle("known")

    def __init__(self) -> None:
        super().__init__()
        self.pending = PendingRequests()
        self.model: dict[str, PendingRequest] = {}

    @rule(target=known, msg_id=ids, msg_type=types)
    def add(self, msg_id: str, msg_type: str) -> str:
        """A client asks."""
        made = request(msg_id, msg_type)
        self.pending.add(made)
        self.model[msg_id] = made
        return msg_id

    @rule(msg_id=known)
    def remove(self, msg_id: str) -> None:
        """The kernel answers, perhaps once more."""
        self.pending.remove(msg_id)
        self.model.pop(msg_id, None)

    @rule(msg_id=st.text())
    def remove_anything(self, msg_id: str) -> None:
        """The kernel answers what nobody has asked."""
        self.pending.remove(msg_id)
        self.model.pop(msg_id, None)

    @rule()
    def take(self) -> None:
        """The kernel dies."""
        taken = self.pending.take()
        assert sorted(map(id, taken)) == sorted(map(id, self.model.values()))
        self.model.clear()

    @invariant()
    def agree(self) -> None:
        """Both have the same."""
        assert len(self.pending) == len(self.model)
        running = any(r.header["msg_type"] == "execute_request" for r in self.model.values())
        assert self.pending.run_code is running


TestPending = Pending.TestCase
TestPending.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_limit() -> None:
    """Of more than can be remembered the oldest are forgotten, and do not count as running."""
    requests = PendingRequests()
    for number in range(pending._LIMIT + 100):
        requests.add(request(str(number)))
    assert len(requests) == pending._LIMIT
    assert requests.take()[0].header["msg_id"] == "100"
    assert not requests.run_code


def test_answered_in_order() -> None:
    """Those that a dead kernel owes are given in the order in which they were asked."""
    requests = PendingRequests()
    for msg_id in "abc":
        requests.add(request(msg_id))
    requests.remove("b")
    requests.add(request("a", "complete_request"))
    assert [r.header["msg_id"] for r in requests.take()] == ["a", "c"]
    assert requests.take() == []
