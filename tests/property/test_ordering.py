"""Order per key: lanes against a model of them."""

from collections import defaultdict

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshq.core.ordering import Lanes

keys = st.sampled_from(["", "a", "b", "customer 17"])


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes[int]()
        self.waiting: dict[str, list[int]] = defaultdict(list)
        """In the order in which they came; the first is the one whose turn it is."""
        self.turn: dict[str, int] = {}
        self.count = 0

    @rule(key=keys)
    def arrive(self, key: str) -> None:
        self.count += 1
        begins = self.lanes.arrive(key, self.count)
        assert begins is (not self.waiting[key]), "one of a key at a time"
        self.waiting[key].append(self.count)
        if begins:
            self.turn[key] = self.count

    @precondition(lambda self: self.turn)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.turn)))
        self.waiting[key].pop(0)
        following = self.lanes.leave(key)
        assert following == (self.waiting[key][0] if self.waiting[key] else None), "first come, first served"
        if following is None:
            del self.turn[key]
        else:
            self.turn[key] = following

    @invariant()
    def knows_no_key_longer_than_it_has_to(self) -> None:
        assert len(self.lanes) == len(self.turn)


TestLanes = Model.TestCase
