"""Items and messages say the same, however a reply came, and whichever way they go."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.api.calls.deltas import Arguments, CallBegins, Content, Delta
from serving.api.conversation import checked
from serving.api.responses.items import (
    CallItem,
    Item,
    MessageItem,
    ResultItem,
    is_reply,
    messages,
    read_items,
)
from serving.api.responses.output import COMPLETED, INCOMPLETE, Output

TEXT = st.text(max_size=5)
ID = st.text("abc", min_size=1, max_size=3)
ITEM: st.SearchStrategy[Item] = st.one_of(
    st.builds(MessageItem, st.sampled_from(["user", "assistant", "system", "developer"]), TEXT),
    st.builds(CallItem, ID, ID, st.just('{"a": 1}')),
    st.builds(ResultItem, ID, TEXT),
)


def written(item: Item, parts: int) -> dict[str, Any]:
    """An item as clients write it; the text of a message in one of the forms that it may have."""
    match item:
        case MessageItem(role, text):
            kind = "output_text" if role == "assistant" else "input_text"
            content = [{"type": kind, "text": line} for line in text.split("\n")]
            forms = ({}, {"type": "message"}, {"type": "message", "id": "x", "status": None})
            return {"role": role, "content": content if parts else text, **forms[parts]}
        case CallItem(call_id, name, arguments):
            said = {"call_id": call_id, "name": name, "arguments": arguments}
            return {"type": "function_call", **said}
        case ResultItem(call_id, output):
            content = [{"type": "input_text", "text": line} for line in output.split("\n")]
            form = content if parts else output
            return {"type": "function_call_output", "call_id": call_id, "output": form}


@given(st.lists(st.tuples(ITEM, st.integers(0, 2)), min_size=1))
def test_items_are_read_as_they_were_written(given: list[tuple[Item, int]]):
    assert read_items([written(*one) for one in given]) == tuple(item for item, _ in given)


def back(said: list[dict[str, Any]]) -> list[tuple[Item, ...]]:
    """What each message says, as items: an assistant's text, then its calls."""
    turned: list[tuple[Item, ...]] = []
    for one in said:
        if one["role"] == "tool":
            turned.append((ResultItem(one["tool_call_id"], one["content"]),))
            continue
        calls = one.get("tool_calls", ())
        spoken: list[Item] = []
        if one["content"] or not calls:
            spoken.append(MessageItem(one["role"], one["content"]))
        for call in calls:
            function = call["function"]
            spoken.append(CallItem(call["id"], function["name"], function["arguments"]))
        turned.append(tuple(spoken))
    return turned


REPLY: st.SearchStrategy[tuple[Item, ...]] = st.one_of(
    TEXT.map(lambda text: (MessageItem("assistant", text),)),
    st.tuples(
        st.lists(st.builds(MessageItem, st.just("assistant"), st.text(min_size=1)), max_size=1),
        st.lists(st.builds(CallItem, ID, ID, TEXT), min_size=1, max_size=3),
    ).map(lambda reply: (*reply[0], *reply[1])),
)
ASKS: st.SearchStrategy[tuple[Item, ...]] = st.one_of(
    st.builds(MessageItem, st.sampled_from(["user", "system", "developer"]), TEXT),
    st.builds(ResultItem, ID, TEXT),
).map(lambda item: (item,))


@given(st.lists(st.tuples(ASKS, REPLY)))
def test_every_reply_is_one_message_and_nothing_is_lost(turns: list[tuple[tuple[Item, ...], ...]]):
    spoken = [one for turn in turns for one in turn]
    said = messages([item for one in spoken for item in one])
    assert back(said) == spoken
    if said:
        assert [one["role"] for one in checked(said)] == [
            "system" if one["role"] == "developer" else one["role"] for one in said
        ]


@given(st.lists(ITEM))
def test_no_item_is_left_out_of_the_messages_whatever_their_order(items: list[Item]):
    said = messages(items)
    calls = [call["id"] for one in said for call in one.get("tool_calls", ())]
    assert calls == [item.call_id for item in items if isinstance(item, CallItem)]
    results = [one["content"] for one in said if one["role"] == "tool"]
    assert results == [item.output for item in items if isinstance(item, ResultItem)]
    texts = "".join(one["content"] for one in said if one["role"] != "tool")
    assert texts == "".join(item.text for item in items if isinstance(item, MessageItem))


def test_two_texts_are_two_messages_and_one_behind_a_call_is_of_the_same():
    a, b = MessageItem("assistant", "a"), MessageItem("assistant", "b")
    call = CallItem("c", "f", "{}")
    assert [one["content"] for one in messages([a, b, call, a])] == ["a", "ba"]
    assert [one["content"] for one in messages([call, a, ResultItem("c", "x"), b])] == [
        *("a", "x", "b"),
    ]


DELTAS = st.lists(st.one_of(st.just("call"), st.text(min_size=1, max_size=4)), max_size=8)


def deltas_of(parts: list[str], in_call: bool) -> list[Delta]:
    """A reply's deltas: after "call" text is its arguments, unless it comes `in_call` no more."""
    deltas: list[Delta] = []
    calls = 0
    for part in parts:
        if part == "call":
            deltas.append(CallBegins(calls, f"f{calls}"))
            calls += 1
        elif deltas and not isinstance(deltas[-1], Content) and in_call:
            deltas.append(Arguments(calls - 1, part))
        else:
            deltas.append(Content(part))
    return deltas


@given(DELTAS, st.booleans(), st.booleans(), st.data())
def test_events_tell_the_items_and_items_come_back_as_they_went(
    parts: list[str], in_call: bool, whole: bool, data: st.DataObject
):
    deltas = deltas_of(parts, in_call)
    output = Output("u", lambda index: f"call_{index}")
    at = data.draw(st.integers(0, len(deltas)))
    events = output.push(deltas[:at]) + output.push(deltas[at:])
    events += output.close(whole=whole)
    shown = output.shown()
    assert rebuilt(events) == shown
    assert [item["status"] for item in shown[:-1]] == [COMPLETED] * (len(shown) - 1)
    assert shown[-1]["status"] == (COMPLETED if whole else INCOMPLETE)
    assert len({item["id"] for item in shown}) == len(shown)
    again = read_items(json.loads(json.dumps(shown)))
    assert again == output.items
    assert all(map(is_reply, again))
    said = messages(again)
    assert len(said) == 1
    assert said[0]["content"] == "".join(d.text for d in deltas if isinstance(d, Content))
    calls = [call["function"]["name"] for call in said[0].get("tool_calls", ())]
    assert calls == [d.name for d in deltas if isinstance(d, CallBegins)]


def rebuilt(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items that a client puts together from deltas; each is done once, and is what it was."""
    items: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert all(item["done"] for item in items)
            assert event["output_index"] == len(items)
            items.append({**event["item"], "done": False})
            continue
        item = items[event["output_index"]]
        assert item is items[-1]
        assert not item["done"]
        assert event.get("item_id", item["id"]) == item["id"]
        match kind:
            case "content_part.added":
                assert item["content"] == []
                item["content"] = [event["part"]]
            case "output_text.delta":
                item["content"][0]["text"] += event["delta"]
            case "function_call_arguments.delta":
                item["arguments"] += event["delta"]
            case "output_text.done":
                assert event["text"] == item["content"][0]["text"]
            case "content_part.done":
                assert event["part"] == item["content"][0]
            case "function_call_arguments.done":
                assert (event["arguments"], event["name"]) == (item["arguments"], item["name"])
            case "output_item.done":
                told = {**item, "status": event["item"]["status"]}
                assert event["item"] == {k: v for k, v in told.items() if k != "done"}
                item |= {"status": event["item"]["status"], "done": True}
            case _:
                raise AssertionError(kind)
    assert all(item.pop("done") for item in items)
    return items


def test_a_reply_that_is_cut_off_is_not_done():
    output = Output("u", str)
    output.push([Content("a"), CallBegins(0, "f"), Arguments(0, "{")])
    output.cut()
    assert [item["status"] for item in output.shown()] == [COMPLETED, INCOMPLETE]
    nothing = Output("u", str)
    nothing.cut()
    assert nothing.shown() == []
