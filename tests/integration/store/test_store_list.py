"""List: order, pages, and pages while tensors come and go."""

from __future__ import annotations

from wire_store import WireStore


def test_pages_oldest_first(store: WireStore) -> None:
    handles = [store.upload(b"x" * (i + 1)).info.handle for i in range(7)]
    for page_size in (1, 2, 3, 7, 8, 2**31 - 1, 0):
        assert [info.handle for info in store.list_all(page_size)] == handles
    first = store.call("List", page_size=3)
    assert len(first.tensors) == 3
    assert first.next_page_token
    exact = store.call("List", page_size=7)
    assert exact.next_page_token == ""
    assert [info.size_bytes for info in exact.tensors] == list(range(1, 8))


def test_an_empty_store(store: WireStore) -> None:
    page = store.call("List")
    assert list(page.tensors) == []
    assert page.next_page_token == ""


def test_pages_while_tensors_come_and_go(store: WireStore) -> None:
    a, b, c, d = (store.upload(b"x").info.handle for _ in range(4))
    page = store.call("List", page_size=2)
    assert [info.handle for info in page.tensors] == [a, b]
    for handle in (a, b, c):
        store.call("Delete", handle=handle)
    e = store.upload(b"x").info.handle
    rest = store.call("List", page_size=2, page_token=page.next_page_token)
    assert [info.handle for info in rest.tensors] == [d, e]
    assert rest.next_page_token == ""


def test_entries_are_what_stat_says(store: WireStore) -> None:
    handle = store.upload(b"data", with_sha256=True, pin_ms=60_000).info.handle
    (listed,) = store.list_all()
    stat = store.stat(handle)
    for info in (listed, stat):
        info.expires_in_ms = info.pinned_for_ms = 0
    assert listed == stat
