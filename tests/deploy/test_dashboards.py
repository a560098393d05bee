"""Every panel and every rule against a real Prometheus and a stack in use."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from deploy.grafana.build import BOARDS, FOLDER, render
from tests.deploy.tools import GRAFANA, PROMETHEUS, command, load, rules
from tests.support.faults import free_port
from tests.support.push import push_file
from tests.support.stack import Stack
from tests.support.webhooks import webhooks_file
from tests.support.wire_client import WireClient

TRAFFIC_S = 8.0
START_S = 90.0
SHOWN_WITHIN_S = 60.0
# Panels without a sample in this stack, and why. Whatever else is empty asks for something that does not exist.
NO_BALANCER = "there is no HAProxy in front of it"
NO_DYNAMODB = "its store is SQLite"
ALL_WELL = "fills once something has failed"
EMPTY = {
    "Edges behind the balancer": NO_BALANCER,
    "Connections at the balancer": NO_BALANCER,
    "Responses at the public port": NO_BALANCER,
    "DynamoDB: calls": NO_DYNAMODB,
    "DynamoDB: repetitions": NO_DYNAMODB,
    "DynamoDB: calls within (p99)": NO_DYNAMODB,
    "Messages of the queue": "there is no queue",
    "Items sent again after a broken stream": ALL_WELL,
    "Clients ended for reading too slowly": ALL_WELL,
}
# What labels there may be, and how many series one metric of one process: none grows with users, channels or clients.
LABELS = {
    *("job", "instance", "le", "kind", "code", "by", "reason", "outcome", "method", "status", "op", "how", "check"),
    "service",  # of ours
    "hook",  # of those in HOOKS_FILE
    "issuer",  # of tokens; those that a setting names
    "group",  # of readers of the feed; at most 100
    "endpoint",  # of webhooks; those that a file names
    *("way", "decision"),  # of notifications: how they go out; what was decided about a user
    "protocol",  # that clients speak, with its encoding
    "limit",  # of those in docs/limits.md
    "target",  # of erasures: where bytes may still be
    *("log", "rule"),  # of publications: which log they wait for; which rule is against them
    *("durability", "db", "role", "__name__"),
}
MAX_SERIES = 120  # there are about 90 routes of HTTP
_QUERIES = [
    (panel["title"], target["expr"], target["legendFormat"])
    for board in BOARDS
    for panel in json.loads(render(board))["panels"]
    for target in panel.get("targets", ())
]


class Prometheus:
    """A running server's HTTP API."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=10)
        self.began_at = time.time()  # Unix seconds

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now. Fails where it is no PromQL."""
        return self._ask("query", query=expression)

    def query_since_start(self, expression: str) -> list[dict[str, Any]]:
        """All series that an expression gave in any second since the start."""
        return self._ask("query_range", query=expression, start=self.began_at, end=time.time(), step=1)

    def _ask(self, path: str, **parameters: str | float) -> list[dict[str, Any]]:
        response = self._http.get(f"/api/v1/{path}", params=parameters).json()
        assert response["status"] == "success", f"{response}: {parameters}"
        found: list[dict[str, Any]] = response["data"]["result"]
        return found

    def is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait_until(self, expression: str, within_s: float) -> None:
        """Until it gives anything."""
        deadline = time.monotonic() + within_s
        while not self.query(expression):
            assert time.monotonic() < deadline, f"nothing after {within_s} s: {expression}"
            time.sleep(0.2)

    def close(self) -> None:
        self._http.close()


async def _one_of_everything(stack: Stack, until: float) -> None:
    """Clients at both edges, users and a backend: one of everything.

    They come, publish, read, look who is there, do wrong and recover.
    """
    async with (
        httpx.AsyncClient(base_url=stack.http_urls[0], timeout=10) as http,
        WireClient(stack.ws_urls[0]) as staying,  # until the end: what counts the clients of the moment shows it
    ):
        await staying.connect(stack.token("staying"))
        while time.monotonic() < until:
            await _users(http)
            await _backend(http, stack.api_key)
            async with WireClient(stack.ws_urls[0]) as writer:
                await writer.connect(stack.token("writer"))
                offset, epoch = await _chat(stack, writer)
            async with WireClient(stack.ws_urls[1], protobuf=True) as late:
                await late.connect(stack.token("late"))
                await late.subscribe("chat:room", recover=True, offset=offset - 1, epoch=epoch)
            async with httpx.AsyncClient() as stranger:
                url = stack.http_urls[0] + "/connection/websocket"
                assert (await stranger.get(url)).status_code == 426


async def _users(http: httpx.AsyncClient) -> None:
    account = {"username": f"user-{secrets.token_hex(4)}", "password": "correct horse battery"}
    await http.post("/auth/register", json=account)
    pair = (await http.post("/auth/login", json=account)).json()["result"]
    await http.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})
    await http.post("/auth/login", json={**account, "password": "another"})


async def _backend(http: httpx.AsyncClient, key: str) -> None:
    for method, body in (("publish", {"channel": "news", "data": 1}), ("presence", {"channel": "news"}), ("info", {})):
        response = await http.post(f"/api/{method}", json=body, headers={"X-API-Key": key})
        assert response.status_code == 200


async def _chat(stack: Stack, writer: WireClient) -> tuple[int, str]:
    """Returns where the log of `chat:room` is afterwards."""
    async with WireClient(stack.ws_urls[1]) as reader:
        await reader.connect(stack.token("reader"))
        for channel in ("chat:room", "news", "tick:clock"):
            await writer.subscribe(channel)
            await reader.subscribe(channel)
            await asyncio.gather(*(writer.publish(channel, number) for number in range(5)))
            await reader.publications(channel, 5)
        await reader.call(presence={"channel": "chat:room"})
        await reader.error(publish={"channel": "no-such:channel", "data": 1})
        await reader.error(rpc={"method": "game.move"})
        page = await reader.call(history={"channel": "chat:room", "limit": 3})
        return page["offset"], page["epoch"]


def _configuration(stack: Stack) -> str:
    """Ours, with the processes of the stack instead of what DNS would say."""
    targets: dict[str, list[str]] = {}
    for name, url in stack.internal_urls.items():
        targets.setdefault(name.partition("-")[0], []).append(url.removeprefix("http://"))
    return json.dumps(
        {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(PROMETHEUS / "rules" / "*.yml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": addresses}]} for job, addresses in targets.items()
            ],
        }
    )


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has watched two edges and all services in use for some seconds."""
    binary = command("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    webhooks = webhooks_file(folder, "http://127.0.0.1:9/")  # nobody listens there
    push = push_file(folder, "http://127.0.0.1:9/")
    hooks = folder / "hooks.toml"
    hooks.write_text('[hooks.game]\nevents = ["rpc"]\nmethods = ["game.move"]\ngrpc = "127.0.0.1:9"\n')  # nor there
    environment = {"AUTH_ATTEMPTS_PER_ADDRESS": "0", "HOOKS_FILE": str(hooks)}
    with Stack(edges=2, environment=environment, webhooks_file=webhooks, push_file=push) as stack:
        (folder / "prometheus.yml").write_text(_configuration(stack), encoding="utf-8")
        port = free_port()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    binary,
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        running = Prometheus(f"http://127.0.0.1:{port}")
        try:
            deadline = time.monotonic() + START_S
            while not running.is_ready():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            # It reads its targets some seconds after it is ready; persistence looks at the feed now and then.
            running.wait_until(f"count(up == 1) == {len(stack.internal_urls)}", START_S)
            running.wait_until("thalamus_feed_waiting", START_S)
            asyncio.run(_one_of_everything(stack, time.monotonic() + TRAFFIC_S))
            running.wait_until("thalamus:delivery_seconds:p99", SHOWN_WITHIN_S)
            yield running
        finally:
            running.close()
            process.terminate()
            process.wait(10)


@pytest.mark.parametrize(("title", "expression", "legend"), _QUERIES)
def test_a_panel_shows_something_and_calls_it_by_labels_that_it_has(
    prometheus: Prometheus, title: str, expression: str, legend: str
) -> None:
    query = expression.replace("$__rate_interval", "30s").replace("$edge", ".*")
    # What counts the clients of the moment shows nothing once they have left, nor while a scrape took over a second.
    found = prometheus.query_since_start(query)
    assert bool(found) is (title not in EMPTY), f"{title}: {expression}"
    for series in found:
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= set(series["metric"])


@pytest.mark.parametrize(("name", "rule"), sorted((rules("record") | rules("alert")).items()))
def test_a_rule_is_evaluated_without_an_error(prometheus: Prometheus, name: str, rule: dict[str, Any]) -> None:
    prometheus.query(rule["expr"])


def test_nothing_but_what_lacks_in_this_stack_raises_an_alert(prometheus: Prometheus) -> None:
    firing = prometheus.query('ALERTS{alertstate="firing"}')
    assert {(one["metric"]["alertname"], one["metric"].get("job")) for one in firing} <= {("ServiceGone", "balancer")}


def test_no_metric_has_labels_that_grow_with_users_or_channels(prometheus: Prometheus) -> None:
    for series in prometheus.query('count by (__name__, job, instance) ({__name__=~"thalamus_.+"})'):
        buckets = 16 if series["metric"]["__name__"].endswith("_bucket") else 1
        assert int(series["value"][1]) <= MAX_SERIES * buckets, series
    found = prometheus.query('{__name__=~"thalamus_.+"}')
    assert found
    assert {label for series in found for label in series["metric"]} <= LABELS


def test_the_files_are_what_the_generator_writes() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == {f"{board.uid}.json" for board in BOARDS}
    for board in BOARDS:
        assert (FOLDER / f"{board.uid}.json").read_text(encoding="utf-8") == render(board), (
            "out of date: make dashboards"
        )


def test_panels_do_not_overlap_and_titles_are_not_used_twice() -> None:
    titles: list[str] = []
    for board in BOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(render(board))["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert place["x"] + place["w"] <= 24
            assert not cells & taken, panel["title"]
            taken |= cells
            if panel["type"] != "row":
                titles.append(panel["title"])
    assert len(titles) == len(set(titles))
    assert set(EMPTY) <= set(titles)


def test_grafana_is_provisioned_with_the_source_and_the_folder() -> None:
    (source,) = load(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = load(GRAFANA / "provisioning" / "dashboards" / "thalamus.yml")["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    assert source["jsonData"]["timeInterval"] == load(PROMETHEUS / "prometheus.yml")["global"]["scrape_interval"]
