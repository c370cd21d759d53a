"""Events from publisher to app, over every broker: the sidecar's own parts, an app that answers as the test says."""

import json
from collections import Counter, defaultdict

from meshq.core import dead
from meshq.core.http import Failed, Failure, HttpResponse, header
from meshq.core.message import DeadLetter, decode
from meshq.core.topology import dead_queue, subscription_queue
from meshq.ports import Delivery
from tests.contract.broker_rigs import BrokerRig, Recorder, eventually
from tests.contract.event_rigs import OK, Member, Mesh, Posted, numbers, subscription

SETTLED = "payments.settled"


async def publish_numbers(publisher: Member, count: int, start: int = 0, event: str = SETTLED, **headers: str) -> None:
    for number in range(start, start + count):
        response = await publisher.publish(event, b"%d" % number, **headers)
        assert response.status == 202, response.body


# --- one event ------------------------------------------------------------------------------------------------------------


async def test_an_event_arrives_as_it_was_published(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        await mesh.member("shop", "shop-a", subscription())
        payments = await mesh.member("payments", "payments-a")
        response = await payments.publish(
            SETTLED, b"paid!", content_type="text/plain", x_shop="berlin", ce_subject="a%20b", ce_id="A-1"
        )
        assert response.status == 202
        told = json.loads(response.body)
        assert told == {"id": told["id"], "status": "accepted", "topic": "payments.settled.v1"}
        assert header(response.headers, b"meshq-message-id") == told["id"].encode()
        assert header(response.headers, b"meshq-subscribers") is None
        (posted,) = await mesh.posted.count(1)
        assert (posted.path, posted.body) == ("/on/settled", b"paid!")
        expected = {
            "host": "localhost",
            "content-type": "text/plain",
            "x-shop": "berlin",
            "ce-specversion": "1.0",
            "ce-id": "A-1",
            "ce-source": "/payments",
            "ce-type": "payments.settled",
            "ce-subject": "a%20b",
            "meshq-topic": "payments.settled.v1",
            "meshq-message-id": told["id"],
            "meshq-attempt": "1",
            "idempotency-key": told["id"],
        }
        assert posted.headers.items() >= expected.items()
        assert posted.headers["ce-time"].endswith("Z")
        assert posted.headers["traceparent"].startswith("00-")


async def test_an_event_without_a_body_arrives_without_one(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        member = await mesh.member("shop", "shop-a", subscription())
        await member.publish(SETTLED, None)
        (posted,) = await mesh.posted.count(1)
        assert posted.body is None


async def test_an_event_that_nobody_subscribes_to_is_accepted_and_counted(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        payments = await mesh.member("payments", "payments-a")
        response = await payments.publish("payments.refunded@7")
        assert response.status == 202
        assert json.loads(response.body)["topic"] == "payments.refunded.v7"
        assert header(response.headers, b"meshq-subscribers") == b"0"
        assert payments.metrics.events["event_unrouted"] == 1


async def test_each_subscribing_service_gets_its_own(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        await mesh.member("shop", "shop-a", subscription(), subscription("again", path="/again"))
        await mesh.member("mail", "mail-a", subscription(path="/mail"))
        payments = await mesh.member("payments", "payments-a")
        await payments.publish(SETTLED, idempotency_key="k-1")
        posted = await mesh.posted.count(3)
        assert {(each.instance, each.path) for each in posted} == {
            ("shop-a", "/on/settled"),
            ("shop-a", "/again"),
            ("mail-a", "/mail"),
        }


async def test_an_event_goes_to_the_subscribers_of_its_major(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        await mesh.member("shop", "shop-a", subscription("one", path="/1"), subscription("two", f"{SETTLED}@2", "/2"))
        payments = await mesh.member("payments", "payments-a")
        await payments.publish(f"{SETTLED}@2")
        await payments.publish(SETTLED)
        posted = await mesh.posted.count(2)
        assert {each.path: each.headers["meshq-topic"] for each in posted} == {
            "/1": "payments.settled.v1",
            "/2": "payments.settled.v2",
        }


async def test_a_pattern_takes_what_it_says(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        await mesh.member(
            "shop", "shop-a", subscription("any", "payments.*", "/any"), subscription("all", "payments.**", "/all")
        )
        payments = await mesh.member("payments", "payments-a")
        for event in ("payments.settled", "payments.card.settled", "payments", "refunds.settled", "payments.settled@2"):
            assert (await payments.publish(event)).status == 202
        assert payments.metrics.events["event_unrouted"] == 2
        posted = await mesh.posted.count(4)
        assert Counter((each.path, each.headers["ce-type"]) for each in posted) == {
            ("/any", "payments.settled"): 1,
            ("/all", "payments.settled"): 1,
            ("/all", "payments.card.settled"): 1,
            ("/all", "payments"): 1,
        }


async def test_a_filter_narrows_a_subscription(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription(filter={"CE-Type": "paid in full", "X-Shop": "berlin"}))
        for number, (kind, town) in enumerate(
            [("paid", "berlin"), ("paid%20in%20full", "paris"), ("paid%20in%20full", "berlin")]
        ):
            await shop.publish(SETTLED, b"%d" % number, ce_type=kind, x_shop=town)
        assert numbers(await mesh.posted.count(1)) == [2]
        await eventually(lambda: _counted(shop, "event_filtered", 2))
        await eventually(lambda: _empty(shop, subscription_queue("shop.v1", "settled")))


async def _counted(member: Member, event: str, count: int) -> bool:
    return member.metrics.events[event] == count


async def _empty(member: Member, *queues: str) -> bool:
    found = await member.broker.stats(queues)
    return len(found) == len(queues) and all(not figures.ready for figures in found)


# --- when the app fails ---------------------------------------------------------------------------------------------------


async def test_a_failed_event_is_tried_again_and_only_by_who_failed(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        await mesh.member("mail", "mail-a", subscription(path="/mail"))
        shop.app.answer = lambda posted: (
            OK if posted.headers["meshq-attempt"] == "2" else HttpResponse(503, [], b"later")
        )
        await shop.publish(SETTLED)
        posted = await mesh.posted.count(3)
        attempts = sorted((each.path, each.headers["meshq-attempt"]) for each in posted)
        assert attempts == [("/mail", "1"), ("/on/settled", "1"), ("/on/settled", "2")]


async def test_an_event_that_is_wrong_is_dead_with_its_reason(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        shop.app.answer = lambda _: HttpResponse(422, [], b"no such order")
        await shop.publish(SETTLED, b"the event")
        buried = Recorder[Delivery]()
        shop.broker.subscribe(dead_queue("shop.v1"), 10, buried)
        (delivery,) = await buried.count(1)
        (letter,) = decode(delivery.body)
        assert isinstance(letter, DeadLetter)
        assert (letter.reason, letter.status, letter.excerpt) == (dead.REJECTED, 422, b"no such order")
        assert letter.queue == subscription_queue("shop.v1", "settled")
        delivery.ack()


async def test_an_app_that_is_not_there_burns_no_attempt(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        refused = [Failed(Failure.REFUSED, "the test says so")]
        shop.app.answer = lambda _: refused.pop() if refused else OK
        await shop.publish(SETTLED)
        posted = await mesh.posted.count(2)
        assert [each.headers["meshq-attempt"] for each in posted] == ["1", "1"]


# --- what a publisher can ask for -----------------------------------------------------------------------------------------


async def test_a_delayed_event_reaches_all_its_subscribers_when_it_is_due(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription(), subscription("each", path="/each", mode="broadcast"))
        await mesh.member("mail", "mail-a", subscription("sorted", "payments.*", "/mail", mode="ordered"))
        assert (await shop.publish(SETTLED, b"1", meshq_delay="2s", meshq_key="a")).status == 202
        assert (await shop.publish(SETTLED, b"2", meshq_delay="1s")).status == 202
        assert (await shop.publish(SETTLED, b"3")).status == 202
        posted = await mesh.posted.count(9)
        by_path = defaultdict(list)
        for each in posted:
            by_path[each.path].append(int(each.body or b""))
        assert by_path == {"/on/settled": [3, 2, 1], "/each": [3, 2, 1], "/mail": [3, 2, 1]}


async def test_fields_that_make_no_sense_are_refused(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        member = await mesh.member("shop", "shop-a", subscription())
        refusals = {
            "meshq-delay": "soon",
            "meshq-key": "",
            "meshq-priority": "urgent",
            "meshq-deadline": "tomorrow",
            "meshq-callback": "/done",
            "ce-specversion": "0.3",
            "ce-time": "now",
            "content-type": "application/cloudevents+xml",
        }
        for name, value in refusals.items():
            response = await member.post(SETTLED, b"{}", [(name.encode(), value.encode())])
            code = header(response.headers, b"meshq-error")
            assert (response.status, code) == (400, b"bad-header"), name
        late = await member.publish(SETTLED, meshq_deadline="1000")
        assert (late.status, header(late.headers, b"meshq-error")) == (504, b"deadline")
        for event in ("Payments", "payments@x", "", "payments/settled"):
            response = await member.publish(event)
            assert (response.status, header(response.headers, b"meshq-error")) == (400, b"bad-address"), event
        assert (await member.post(SETTLED, None, [], b"GET")).status == 405
        await member.publish(SETTLED, b"7")
        assert numbers(await mesh.posted.count(1)) == [7], "nothing else was published"


async def test_an_event_whose_deadline_passes_in_the_queue_is_dead(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        shop.work.pause()
        soon = shop.clock.mesh_ms() + 50
        await shop.publish(SETTLED, meshq_deadline=str(soon))
        await eventually(lambda: _passed(shop, soon))
        shop.work.resume()
        buried = Recorder[Delivery]()
        shop.broker.subscribe(dead_queue("shop.v1"), 10, buried)
        (delivery,) = await buried.count(1)
        (letter,) = decode(delivery.body)
        assert isinstance(letter, DeadLetter)
        assert letter.reason == dead.DEADLINE
        delivery.ack()
        assert mesh.posted.seen == []


async def _passed(member: Member, mesh_ms: int) -> bool:
    return member.clock.mesh_ms() > mesh_ms


async def test_an_idempotency_key_is_handled_once_by_each_subscription(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        await mesh.member("mail", "mail-a", subscription(path="/mail"))
        for _ in range(3):
            await shop.publish(SETTLED, b"1", idempotency_key="order-17")
        await shop.publish(SETTLED, b"2")
        posted = await mesh.posted.until(lambda seen: numbers(seen).count(2) == 2)
        await eventually(lambda: _counted(shop, "key_repeated", 2))
        assert Counter((each.path, each.body) for each in posted) == {
            ("/on/settled", b"1"): 1,
            ("/mail", b"1"): 1,
            ("/on/settled", b"2"): 1,
            ("/mail", b"2"): 1,
        }


# --- batches --------------------------------------------------------------------------------------------------------------


async def test_a_batch_is_published_event_by_event(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        events = [
            {
                "specversion": "1.0",
                "id": f"e{n}",
                "source": "/tills",
                "type": "com.example.paid",
                "data": {"n": n},
                "partitionkey": "k",
            }
            for n in range(100)
        ]
        response = await shop.publish_batch(SETTLED, events, x_shop="berlin", meshq_priority="high")
        assert response.status == 202
        told = json.loads(response.body)
        assert told["topic"] == "payments.settled.v1"
        assert [each["status"] for each in told["events"]] == ["accepted"] * 100
        posted = await mesh.posted.count(100)
        assert {json.loads(each.body or b"")["n"] for each in posted} == set(range(100))
        assert {each["id"] for each in told["events"]} == {each.headers["meshq-message-id"] for each in posted}
        one = posted[0].headers
        expected = {
            "x-shop": "berlin",
            "content-type": "application/json",
            "ce-type": "com.example.paid",
            "meshq-key": "k",
        }
        assert one.items() >= expected.items()


async def test_the_answer_to_a_batch_tells_each_fate(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        response = await shop.publish_batch(SETTLED, [{"data": 1}, {"time": "now"}, 5])
        assert response.status == 202
        fates = json.loads(response.body)["events"]
        assert [(fate["status"], fate.get("code")) for fate in fates] == [
            ("accepted", None),
            ("refused", "bad-request"),
            ("refused", "bad-request"),
        ]
        assert "ce-time: 'now' is not a time" in fates[1]["detail"]
        nobody = await shop.publish_batch("payments.refunded", [{}, {}])
        assert [fate["subscribers"] for fate in json.loads(nobody.body)["events"]] == [0, 0]
        assert shop.metrics.events["event_unrouted"] == 2
        assert json.loads((await shop.publish_batch(SETTLED, [])).body)["events"] == []


async def test_a_batch_of_which_nothing_is_accepted_has_the_status_of_the_first_refusal(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        response = await shop.publish_batch(SETTLED, [{"id": ""}, 5])
        assert (response.status, header(response.headers, b"content-type")) == (400, b"application/problem+json")
        problem = json.loads(response.body)
        assert (problem["code"], len(problem["events"])) == ("bad-request", 2)
        too_many = await shop.publish_batch(SETTLED, [{}] * 1001)
        assert (too_many.status, header(too_many.headers, b"meshq-error")) == (413, b"too-large")
        for fields in ({"content_encoding": "gzip"}, {"x_much": "x" * 9000}):
            refused = await shop.publish_batch(SETTLED, [{}], **fields)
            assert (refused.status, header(refused.headers, b"meshq-error")) == (400, b"bad-header")
        strange = await shop.publish_batch(SETTLED, [{"\ud800": {}}])
        assert strange.status == 400


async def test_a_batch_with_an_idempotency_key_can_be_sent_again(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        for _ in range(2):
            await shop.publish_batch(SETTLED, [{"data": n} for n in range(3)], idempotency_key="b-1")
        await eventually(lambda: _counted(shop, "key_repeated", 3))
        assert sorted(numbers(mesh.posted.seen)) == [0, 1, 2]


async def test_one_event_in_the_structured_mode(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        shop = await mesh.member("shop", "shop-a", subscription())
        body = json.dumps(
            {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data_base64": "AAEC"}
        ).encode()
        response = await shop.publish(
            SETTLED, body, content_type="application/cloudevents+json", ce_id="of the transport"
        )
        assert response.status == 202
        (posted,) = await mesh.posted.count(1)
        assert (posted.body, posted.headers["ce-id"], "content-type" in posted.headers) == (b"\0\1\2", "1", False)


# --- who gets it ----------------------------------------------------------------------------------------------------------


async def test_shared_goes_to_one_instance_each(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        first = await mesh.member("shop", "shop-a", subscription())
        await mesh.member("shop", "shop-b", subscription())
        await publish_numbers(first, 40)
        posted = await mesh.posted.count(40)
        await eventually(lambda: _empty(first, subscription_queue("shop.v1", "settled")))
        assert sorted(numbers(posted)) == list(range(40))
        assert {each.instance for each in posted} == {"shop-a", "shop-b"}


async def test_what_comes_while_nobody_is_there_waits(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        await (await mesh.member("shop", "shop-a", subscription())).die()
        payments = await mesh.member("payments", "payments-a")
        await publish_numbers(payments, 3)
        await mesh.member("shop", "shop-b", subscription())
        assert sorted(numbers(await mesh.posted.count(3))) == [0, 1, 2]


async def test_broadcast_goes_to_every_instance_that_is_connected(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        each = subscription("each", mode="broadcast")
        first = await mesh.member("shop", "shop-a", each)
        gone = await mesh.member("shop", "shop-b", each)
        await publish_numbers(first, 2)
        posted = await mesh.posted.count(4)
        assert Counter(p.instance for p in posted) == {"shop-a": 2, "shop-b": 2}
        await gone.die()
        await publish_numbers(first, 1, start=2)
        posted = await mesh.posted.count(5)
        assert [(p.instance, p.body) for p in posted[4:]] == [("shop-a", b"2")]


async def test_a_failed_broadcast_comes_again_to_the_one_that_failed(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        each = subscription("each", mode="broadcast")
        failing = await mesh.member("shop", "shop-a", each)
        await mesh.member("shop", "shop-b", each)
        failing.app.answer = lambda posted: OK if posted.headers["meshq-attempt"] == "2" else HttpResponse(500, [], b"")
        await failing.publish(SETTLED)
        posted = await mesh.posted.count(3)
        assert sorted((p.instance, p.headers["meshq-attempt"]) for p in posted) == [
            ("shop-a", "1"),
            ("shop-a", "2"),
            ("shop-b", "1"),
        ]


async def test_ordered_keeps_the_order_of_each_key_over_instances_and_failures(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        ordered = subscription("sorted", mode="ordered")
        first, second = [await mesh.member("shop", f"shop-{n}", ordered) for n in "ab"]
        failed: set[str] = set()

        def once_wrong(posted: Posted) -> HttpResponse:
            number = (posted.body or b"").decode()
            if number in ("3", "17") and number not in failed:
                failed.add(number)
                return HttpResponse(503, [(b"Retry-After", b"0")], b"")
            return OK

        first.app.answer = second.app.answer = once_wrong
        for number in range(40):
            await first.publish(SETTLED, b"%d" % number, meshq_key=f"key-{number % 5}")
        posted = await mesh.posted.count(42)
        by_key = defaultdict(list)
        for each in posted:
            by_key[each.headers["meshq-key"]].append(int(each.body or b""))
        for key, seen in by_key.items():
            wanted = [n for n in range(40) if f"key-{n % 5}" == key for _ in range(2 if str(n) in failed else 1)]
            assert seen == wanted, key


async def test_exclusive_has_one_instance_until_it_dies(rig: BrokerRig) -> None:
    async with Mesh(rig) as mesh:
        only = subscription("only", mode="exclusive")
        first = await mesh.member("shop", "shop-a", only)
        await publish_numbers(first, 1)
        await mesh.posted.count(1)
        second = await mesh.member("shop", "shop-b", only)
        await publish_numbers(second, 20, start=1)
        posted = await mesh.posted.count(21)
        assert {each.instance for each in posted} == {"shop-a"}
        await first.die()
        await publish_numbers(second, 5, start=21)
        posted = await mesh.posted.until(lambda seen: set(numbers(seen)) == set(range(26)))
        assert {each.instance for each in posted if int(each.body or b"") >= 21} == {"shop-b"}
