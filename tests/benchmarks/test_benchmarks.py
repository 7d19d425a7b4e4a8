"""The benchmarks measure what they say, and do not accept a run that lost a write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks import (
    application,
    detection,
    elements,
    figures,
    fronts,
    healing,
    inprocess,
    load,
    store,
    stream,
)
from benchmarks.__main__ import arguments, main
from benchmarks.processes import NotStarted, Processes
from benchmarks.stream_client import KINDS


def run_of(**rates: list[float]) -> load.Run:
    """A run in which each variant had these rates, the same for both routes."""
    plan = load.Plan(tuple(rates), rounds=2)
    run = load.Run(plan)
    for variant, values in rates.items():
        for route in load.ROUTES:
            run.samples[variant, route] = [load.Sample(value, 100, 200, 40.0) for value in values]
    return run


def test_a_ratio_is_made_round_by_round() -> None:
    """A slow second round, slow for both, does not change the ratio."""
    run = run_of(bare=[1000.0, 100.0, 10.0], cookie=[500.0, 50.0, 5.0])
    found = load.report(run)
    assert found["ratios"]["cookie"] == {"read": 0.5, "write": 0.5}
    assert next(iter(found)) == "ratios"


def test_goals_compare_sessionha_with_each_other_variant() -> None:
    run = run_of(
        **{"bare": [100.0], "cookie": [60.0], "starsessions-redis": [20.0], "sessionha": [65.0]}
    )
    met = {(goal["route"], goal["over"]): goal["met"] for goal in load.report(run)["goals"]}
    assert met == {
        ("read", "starsessions-redis"): False,
        ("write", "starsessions-redis"): True,
        ("read", "cookie"): True,
        ("write", "cookie"): True,
    }


def test_lost_doubled_and_failed_writes_are_errors() -> None:
    thread = load.Thread(answered=5, wrong=0, took=1.0, cookies="")
    failed = load.Thread(answered=5, wrong=2, took=1.0, cookies="")
    assert load.mistakes("x", [thread], 0, [(5, 5)]) == []
    assert load.mistakes("x", [thread], 0, [(5, 4)]) == ["x: a counter of 4 after 5 writes"]
    assert load.mistakes("x", [thread], 0, [(5, 6)]) == ["x: a counter of 6 after 5 writes"]
    assert load.mistakes("x", [failed, thread], 1, [(5, 5)]) == ["x: 3 answers were not 200"]


def test_what_wrk_prints_is_read() -> None:
    output = "Running 1s test\nload 500 1500 0\nthread 1000 0 0.500000 a=b; c=d\nthread 0 0 0.0 \n"
    sample, threads, broken = load.parse(output, cpu=0.05)
    assert sample == load.Sample(2000.0, 500, 1500, 50.0)
    assert [thread.cookies for thread in threads] == ["a=b; c=d", ""]
    assert broken == 0


def test_the_state_is_about_a_kilobyte() -> None:
    assert 900 <= application.state_bytes() <= 1100


def test_the_elements_fill_a_session_of_the_default_size() -> None:
    """A hundred of them, and below the limit of 64 KiB."""
    assert len(application.elements()) == 100
    assert 60_000 < application.state_bytes(application.ELEMENTS) < 65_536


def test_a_write_of_one_element_is_compared_with_the_whole_session(tmp_path: Path) -> None:
    """Both ways are measured between two nodes, and neither loses a write."""
    found = elements.Found(elements.costs(tmp_path, 1), None)
    told = elements.report(found)["elements"]
    assert 100 < told["bytes_per_write"] < 300
    assert told["bytes_whole"] > 60_000
    assert told["cpu_us_per_write"] > 0
    assert "one element" in elements.text(found)


def test_requests_that_change_an_element_are_compared_with_redis() -> None:
    """The ratio is made round by round."""
    run = run_of(**{"starsessions-redis": [100.0, 10.0, 10.0], "sessionha": [500.0, 60.0, 70.0]})
    cost = elements.Costs(elements.Cost(100, 50.0), elements.Cost(60_000, 500.0))
    told = elements.report(elements.Found([cost], run))["elements"]
    assert told["ratio"] == 6.0
    assert told["requests_per_s"] == {"starsessions-redis": 10.0, "sessionha": 70.0}


def test_numbers_and_columns_are_readable() -> None:
    assert str(figures.spread([3.0, 1.0, 2.0])) == "2 (1–3)"
    assert figures.table(["a", "bb"], [["ccc", "1"]]) == "a    bb\nccc   1"


def test_an_unknown_variant_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--variants", "bare,nonsense"])
    assert "nonsense" in capsys.readouterr().err


def test_the_stores_are_compared_with_bare_lmdb() -> None:
    found = {
        "py-lmdb": {"read": [1.0, 2.0], "write": [2.0, 2.0]},
        "LMDB store": {"read": [2.0, 4.0], "write": [5.0, 5.0]},
    }
    assert store.report(found)["ratios"]["LMDB store"] == {"read": 2.0, "write": 2.5}
    assert "LMDB store" in store.text(found)


def test_the_stream_is_compared_with_each_way_of_redis() -> None:
    """A way that has no figure for a number in flight is left out, not compared with zero."""
    found: stream.Found = {kind: [{"rates": {}}] for kind in KINDS}
    found["stream"] = [{"p50": 20.0, "p99": 40.0, "rates": {"64": 900.0, "256": 1000.0}}]
    found["redis-asyncio"] = [{"p50": 80.0, "p99": 90.0, "rates": {"64": 100.0, "256": 100.0}}]
    ratios = stream.report(found)["ratios"]
    assert ratios["redis-asyncio"] == {"64": 9.0, "256": 10.0}
    assert ratios["redis-sync"] == {}
    assert "–" in stream.text(found)


def test_a_death_is_over_when_a_view_without_the_victim_is_in_the_log() -> None:
    """A view that still has it, and other lines, do not count."""
    log = """2026-11-23 07:50:01,000 7 INFO topology view 7 (n1): as before; members n1, n2
2026-11-23 07:50:01,100 7 INFO topology n2 is silent
2026-11-23 07:50:01,250 7 INFO topology view 8 (n1): n2 failed; members n1, n20
"""
    first = detection.installed_without("n2", log)
    assert first is not None
    assert round(first % 60, 3) == 1.25
    assert detection.installed_without("n1", log) is None


def test_detection_is_compared_with_its_goals() -> None:
    """A proven death has 300 ms, a silent one as much after the times to suspect and confirm."""
    told = detection.report(
        {"SIGKILL": [50.0] * 99 + [900.0], "SIGSTOP": [1790.0, 1810.0]}, "quorum", namespaces=True
    )
    assert told["detection"]["SIGKILL"]["met"]
    assert not told["detection"]["SIGSTOP"]["met"]
    assert "1800 MISSED" in detection.text(told)


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as running:
        yield running


@pytest.mark.processes
def test_a_process_that_ends_says_why(processes: Processes) -> None:
    process = processes.python("benchmarks.nothing", [], processes.cores.server)
    with pytest.raises(NotStarted, match=r"benchmarks\.nothing"):
        processes.await_port(process, 1)


@pytest.mark.processes
def test_processes_and_directories_are_gone_after_an_error() -> None:
    with suppress(ZeroDivisionError), Processes() as running:
        process = running.start("sleep", ["sleep", "600"], running.cores.helper)
        raise ZeroDivisionError
    assert process.poll() is not None
    assert not running.directory.exists()
    assert not running.memory.exists()


@pytest.mark.processes
@pytest.mark.skipif(bool(load.missing_programs()), reason="needs wrk and redis-server")
def test_a_short_comparison_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rounds", "1", "--seconds", "1", "--connections", "2"]
    assert main([*words, "--variants", "bare,cookie"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["ratios"]["bare"] == {"read": 1.0, "write": 1.0}
    assert 0 < found["ratios"]["cookie"]["read"] < 1.5


@pytest.mark.processes
def test_fronts_are_compared_with_none() -> None:
    plan = load.Plan(("direct", "router", "nginx"), rounds=2)
    run = load.Run(plan)
    for variant, rate, p50 in (("direct", 1000.0, 100), ("router", 240.0, 300), ("nginx", 900, 80)):
        samples = [load.Sample(rate, p50, 2 * p50, 40.0), load.Sample(rate / 2, p50, 2 * p50, 40.0)]
        run.samples[variant, fronts.ROUTE] = samples
    found = fronts.report(run)
    assert found["of_direct"] == {"direct": 1.0, "router": 0.24, "nginx": 0.9}
    assert found["goal"] == {"router": 0.25, "met": False}
    assert found["fronts"]["router"]["added_p50_us"]["median"] == 200
    assert "MISSED" in fronts.text(run)


@pytest.mark.processes
@pytest.mark.needs("wrk")
def test_a_short_comparison_of_the_router_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["router", "--rounds", "1", "--seconds", "1", "--variants", "direct,router", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["valid"]


def test_a_driver_counts_what_it_wrote() -> None:
    run = inprocess.measure(("bare", "cookie"), 1)
    assert run.errors == []
    assert set(inprocess.report(run)["inprocess"]) == {"bare", "cookie"}
    assert "cookie" in inprocess.text(run)


def test_healing_tells_what_requests_noticed() -> None:
    """Percentiles of what was under way before the death, and while copies were made."""
    load = healing.Load([])
    load.took = [(second, 0.001) for second in range(10)] + [(9.9, 0.250)]
    quiet, during = load.between(0, 10), load.between(10, 20)
    assert (quiet["requests"], during["requests"], during["p99_ms"]) == (11, 1, 250.0)
    found = {
        "copies_made": 2, "bytes": 2**20, "begun_after_s": 5.1, "healing_s": 0.5,
        "quiet": quiet, "healing": during, "refused": 0, "domain_waits": 1, "domain_waited_ms": 4,
        "memory_growth": 33 * 2**20, "memory_goal": healing.MEMORY_GOAL,
    }  # fmt: skip
    told = healing.text({"groups": 3, "ways": {"walk and tail": found, "another": found}})
    assert "another: 2 copies of 3 groups, 1.0 MiB" in told
    assert "grew by 33.0 MiB (MISSED: 32)" in told
