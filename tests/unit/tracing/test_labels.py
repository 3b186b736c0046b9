import torch
from hypothesis import given
from hypothesis import strategies as st

from gdp.tracing import ChannelIds, Labels, connected_components


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))
    )
)
def test_components_are_those_of_a_plain_union_find(case):
    n, edges = case
    parent = list(range(n))

    def find(i: int) -> int:
        return i if parent[i] == i else find(parent[i])

    for a, b in edges:
        low, high = sorted((find(a), find(b)))
        parent[high] = low
    a, b = (torch.tensor([e[k] for e in edges], dtype=torch.long) for k in (0, 1))
    assert connected_components(n, a, b).tolist() == [find(i) for i in range(n)]


def test_labels_hold_only_what_varies():
    ids = torch.arange(1, 5).view(1, 4, 1, 1).expand(2, 4, 7, 7)
    labels = Labels.of(ids)
    assert labels.ids.shape == (1, 4, 1, 1) and torch.equal(labels.full(), ids)
    assert Labels.of(ids.clone()).ids.shape == (1, 4, 1, 1)


def test_a_channel_joined_to_what_must_stay_keeps_its_reason_through_other_unions():
    units = ChannelIds()
    a, b = units.new(3), units.new(3)
    units.union(a, b, "never used")
    units.union(a, torch.tensor([0, 2, 0]), "pads")
    root, reasons = units.roots()
    assert root[b].tolist() == root[a].tolist()
    assert [reasons.get(r) for r in root[b].tolist()] == ["pads", None, "pads"]
