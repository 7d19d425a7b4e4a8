"""Settings: where they come from, how they are read, and what is refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from sessionha import InvalidSettings, SessionMiddleware
from sessionha.keys import PEER_LABEL, hkdf, new_secret
from sessionha.quantities import NEVER, read_duration, read_size, show_duration, show_size
from sessionha.settings import ARGUMENTS, RELATIONS, Settings, markdown, table

SECRET = "4f1c8e0b7a2d96e35c0f8a1b7d4e29c6"
LOOPBACK = "n1=http://127.0.0.1:7001,n2=http://127.0.0.1:7002"
NODES = "n1=http://10.0.0.1:7946,n2=http://10.0.0.2:7946"


def load(environ: Mapping[str, str] | None = None, /, **keywords: object) -> Settings:
    return Settings.load(environ or {}, **keywords)


def problems(environ: Mapping[str, str] | None = None, /, **keywords: object) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        load(environ, **keywords)
    return caught.value.problems


def only_problem(environ: Mapping[str, str] | None = None, /, **keywords: object) -> str:
    (problem,) = problems(environ, **keywords)
    return problem


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# --- without configuration ------------------------------------------------------------------------


def test_a_node_alone_needs_no_configuration_and_listens_nowhere() -> None:
    settings = load()

    assert (settings.listen, settings.admin, settings.secret) == ("", "", ())
    assert not settings.has_peers
    assert settings.consistency == "available"
    assert settings.node


def test_the_defaults_satisfy_every_relation() -> None:
    assert [relation.meaning for relation in RELATIONS if not relation.holds(load())] == []


def test_every_default_is_a_value_that_its_own_kind_reads() -> None:
    settings = load()
    for name, row, _ in table():
        value = getattr(settings, name)
        if value not in (None, "", ()):
            assert row.kind.read(value) == value, name


# --- sources --------------------------------------------------------------------------------------


def test_keyword_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(
        tmp_path / "sessionha.toml",
        '[cluster]\ncluster = "f"\nengine_type = "f"\nvirtual_server = "f"\n',
    )
    environ = {
        "SESSIONHA_CONFIG": str(file),
        "SESSIONHA_CLUSTER": "e",
        "SESSIONHA_ENGINE_TYPE": "e",
    }

    settings = load(environ, cluster="k")

    found = (
        settings.cluster,
        settings.engine_type,
        str(settings.virtual_server),
        settings.elements,
    )
    assert found == ("k", "e", "f", 256)


def test_a_keyword_that_is_none_and_an_empty_variable_count_as_not_given() -> None:
    settings = load({"SESSIONHA_ENGINE_TYPE": ""}, cluster=None)

    assert (settings.cluster, settings.engine_type) == ("default", "web")


def test_explain_tells_every_value_and_where_it_came_from(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", '[cluster]\nheartbeat = "100ms"\n')

    rows = {
        name: (value, origin)
        for name, value, origin in load(
            {"SESSIONHA_STORE_SIZE": "1GiB"}, config=file, secret=SECRET, idle_timeout="5min"
        ).explain()
    }

    assert rows["heartbeat"] == ("0.1 s", f"file {file}")
    assert rows["store_size"] == ("1 GiB", "environment SESSIONHA_STORE_SIZE")
    assert rows["idle_timeout"] == ("5 min", "keyword")
    assert rows["secret"] == ("set", "keyword")
    assert rows["depth"] == ("16", "default")
    assert set(rows) == {name for name, _, _ in table()}


def test_no_secret_shows_in_any_text() -> None:
    settings = load(secret=SECRET)

    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.explain())


# --- names ----------------------------------------------------------------------------------------


def test_an_unknown_keyword_is_an_error_that_suggests_the_nearest() -> None:
    problem = only_problem(comit_timeout=3)

    assert "`comit_timeout`" in problem
    assert "did you mean `commit_timeout`?" in problem


def test_an_unknown_variable_is_an_error_that_suggests_the_nearest() -> None:
    problem = only_problem({"SESSIONHA_HARTBEAT": "1"})

    assert "`SESSIONHA_HARTBEAT`" in problem
    assert "did you mean `SESSIONHA_HEARTBEAT`?" in problem


def test_an_unknown_name_in_the_file_is_an_error_that_suggests_the_nearest(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "[cluster]\nbackup = 1\n[clusters]\n")

    found = problems(config=file)

    assert any(f"{file}, line 2: backup" in each and "`backups`" in each for each in found)
    assert any("[clusters]" in each for each in found)


def test_an_unknown_name_that_is_near_nothing_points_to_the_list() -> None:
    assert "`sessionha config`" in only_problem(zzz=1)


def test_a_file_cannot_name_another_file(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", '[cluster]\nconfig = "other.toml"\n')

    assert "config" in only_problem(config=file)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (2, 2.0),
        (0.25, 0.25),
        ("30", 30.0),
        ("250ms", 0.25),
        ("30s", 30.0),
        ("5min", 300.0),
        ("1.5 h", 5400.0),
        ("14d", 1209600.0),
        ("never", NEVER),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_durations_are_numbers_of_seconds_or_texts_with_units(
    given: object, seconds: float
) -> None:
    assert read_duration(given) == pytest.approx(seconds)


@pytest.mark.parametrize("given", [-1, True, "soon", "5 parsecs", "", None, "1e9", float("nan")])
def test_other_durations_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        read_duration(given)


@pytest.mark.parametrize(
    ("given", "size"),
    [(65536, 65536), ("65536", 65536), ("64KiB", 65536), ("1 GiB", 2**30), ("1.5kb", 1500)],
)
def test_sizes_are_numbers_of_bytes_or_texts_with_units(given: object, size: int) -> None:
    assert read_size(given) == size


@pytest.mark.parametrize("given", [-1, True, "big", "0.5B", 1.5, None])
def test_other_sizes_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        read_size(given)


@pytest.mark.parametrize("seconds", [0.0, 0.25, 1.0, 90.0, 1800.0, 43200.0, 1209600.0, NEVER])
def test_a_shown_duration_reads_back(seconds: float) -> None:
    assert read_duration(show_duration(seconds)) == seconds


@pytest.mark.parametrize("size", [0, 1000, 65536, 2**28, 2**30])
def test_a_shown_size_reads_back(size: int) -> None:
    assert read_size(show_size(size)) == size


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("cluster", "a b", "letters, digits"),
        ("heartbeat", 0, "at least"),
        ("heartbeat", "soon", "duration"),
        ("idle_timeout", 0, "at least"),
        ("backups", -1, "from 0 to 7"),
        ("backups", "two", "from 0 to 7"),
        ("store_size", "1KiB", "at least 1 MiB"),
        ("listen", "7946", "host:port"),
        ("listen", "0.0.0.0:99999", "host:port"),
        ("route_cookie", "a;b", "cookie name"),
        ("health_path", "health", "path"),
        ("store", "", "not empty"),
        ("trust_refused", "maybe", '"same-host" or "always"'),
        ("elements", True, "whole number"),
        ("secret", [], "secret"),
    ],
)
def test_a_wrong_value_is_named_with_its_setting_and_what_would_be_right(
    name: str, value: object, part: str
) -> None:
    problem = problems(**{name: value})[0]

    assert f"`{name}`" in problem
    assert part in problem
    if name != "secret":
        assert repr(value) in problem


def test_all_mistakes_are_reported_at_once() -> None:
    found = problems(
        {"SESSIONHA_HARTBEAT": "1", "SESSIONHA_DEPTH": "deep"},
        elements=0,
        listen="nowhere",
        suspect_after=0.1,
        secret="short",
    )

    named = ("HARTBEAT", "`depth`", "`elements`", "`listen`", "`suspect_after`", "`secret`")
    assert [name for name in named if not any(name in each for each in found)] == []


# --- what this version does not do ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concurrency", "reject"),
    ],
)
def test_a_value_whose_feature_does_not_exist_is_refused_and_says_so(name: str, value: str) -> None:
    problem = only_problem(**{name: value})

    assert f"`{name}` = '{value}'" in problem
    assert "this version" in problem


def test_a_password_in_a_url_of_nodes_is_not_shown() -> None:
    url = "redis://:hunter2@10.0.0.9/0?password=hunter2"
    assert "hunter2" not in only_problem(nodes=f"{url},{url}")
    settings = Settings.load({}, node="n1", nodes=url, secret=new_secret())
    assert "hunter2" not in repr(settings)
    assert {row.value for row in settings.explain() if row.name == "nodes"} == {
        "redis://10.0.0.9/0"
    }


# --- discovery ------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", ["dns://web:7946", "dns://_peer._tcp.web", "redis://10.0.0.9/0"])
def test_nodes_that_are_found_make_a_cluster_without_a_list(nodes: str) -> None:
    """This node listens for them, on all its addresses, and tells the one that peers reach."""
    settings = Settings.load({}, node="web-0", nodes=nodes, secret=new_secret(), zone="east")
    assert str(settings.discovery) == nodes
    assert settings.description.nodes == ()
    assert settings.has_peers
    assert settings.listen == "0.0.0.0:7946"
    assert settings.advertise.endswith(":7946")
    assert not settings.advertise.startswith("0.0.0.0")
    assert Settings.observe({}, nodes=nodes, secret=new_secret()).discovery == settings.discovery


def test_nodes_that_are_found_need_a_secret_a_listener_and_a_form_that_can_be_read() -> None:
    found = "dns://web:7946"
    assert "`secret` is not set" in only_problem(nodes=found)
    assert "`listen` is off" in only_problem(nodes=found, listen="off", secret=new_secret())
    assert "may find any address" in only_problem(nodes=found, secret="insecure-loopback")
    assert "`nodes` = 'dns://web:0'" in only_problem(nodes="dns://web:0", secret=new_secret())


# --- relations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (("suspect_after", "heartbeat"), {"suspect_after": 1, "heartbeat": 0.5}),
        (("commit_timeout",), {"commit_timeout": 1.5}),
        (("acquire_timeout",), {"acquire_timeout": 1}),
        (("heal_after",), {"heal_after": 1}),
        (("forget_after", "heal_after"), {"forget_after": 10}),
        (("drain_timeout",), {"drain_timeout": 2}),
        (("lifetime", "idle_timeout"), {"lifetime": "10min"}),
        (
            ("min_copies", "backups"),
            {"min_copies": 2, "nodes": LOOPBACK, "node": "n1", "secret": SECRET},
        ),
        (("session_bytes", "store_size"), {"session_bytes": "1MiB", "store_size": "4MiB"}),
        (
            ("session_bytes",),
            {"session_bytes": "3MiB", "nodes": LOOPBACK, "node": "n1", "secret": SECRET},
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused_with_both(
    names: tuple[str, ...], values: dict[str, object]
) -> None:
    problem = only_problem(**values)

    for name in names:
        assert f"{name} = " in problem


def test_healing_at_once_and_never_are_allowed() -> None:
    assert load(heal_after=0).heal_after == 0
    assert load(heal_after="never").forget_after == NEVER


def test_a_refused_value_does_not_cause_a_complaint_about_its_relations() -> None:
    assert "duration" in only_problem(heartbeat="soon", suspect_after=0.02)


def test_copies_cannot_be_demanded_of_nobody() -> None:
    assert "configure `nodes`" in only_problem(min_copies=1)
    assert Settings.observe({"SESSIONHA_MIN_COPIES": "1"}).min_copies == 1, "a router's is unused"


def test_peers_and_administration_do_not_share_an_address() -> None:
    settings = {"listen": "10.0.0.1:7946", "admin": "10.0.0.1:7946", "secret": SECRET}

    assert "do not share a port" in only_problem(**settings)


# --- nodes ----------------------------------------------------------------------------------------


def test_a_configured_node_listens_for_its_peers() -> None:
    settings = load(nodes=NODES, node="n2", secret=SECRET)

    assert settings.has_peers
    assert settings.listen == "0.0.0.0:7946"
    assert settings.advertise == "10.0.0.2:7946"
    assert settings.admin == "127.0.0.1:7947"
    assert settings.description.order == ("n1", "n2")


def test_a_node_on_loopback_listens_on_loopback_only() -> None:
    settings = load(nodes=LOOPBACK, node="n2", secret=SECRET)

    assert (settings.listen, settings.advertise) == ("127.0.0.1:7002", "127.0.0.1:7002")


def test_a_listener_on_all_addresses_is_advertised_under_one() -> None:
    host, _, port = load(listen="0.0.0.0:7999", secret=SECRET).advertise.rpartition(":")

    assert port == "7999"
    assert host not in ("", "0.0.0.0")


def test_nodes_may_be_a_mapping_or_a_list() -> None:
    text = load(nodes=LOOPBACK, node="n1", secret=SECRET)
    parts = LOOPBACK.split(",")
    mapping = dict(part.split("=", 1) for part in parts)

    for nodes in (parts, mapping):
        assert load(nodes=nodes, node="n1", secret=SECRET).description == text.description


def test_nodes_may_be_tables_of_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.toml",
        f'[cluster]\nnode = "n1"\nsecret = ["{SECRET}"]\n'
        '[[node]]\nid = "n1"\npeer = "http://10.0.0.1:7946"\nzone = "a"\n'
        '[[node]]\nid = "n2"\npeer = "http://10.0.0.2:7946"\n',
    )

    settings = load(config=file)

    assert settings.description.order == ("n1", "n2")
    assert settings.listen == "0.0.0.0:7946"


def test_nodes_are_listed_in_one_place(tmp_path: Path) -> None:
    """Which of the two lists counts would be a guess."""
    file = write(tmp_path / "c.toml", '[[node]]\nid = "n1"\npeer = "http://10.0.0.1:7946"\n')

    (problem,) = problems(nodes="n1=http://10.0.0.1:7946", config=file, node="n1", secret=SECRET)

    assert "`nodes`" in problem
    assert "[[node]] tables of the file: keep one" in problem


def test_mistakes_in_the_nodes_are_reported_with_the_others() -> None:
    found = problems(nodes="n1=10.0.0.1,n2", depth=0)

    assert len([each for each in found if "`nodes`" in each]) == 2
    assert any("`depth`" in each for each in found)


def test_a_node_that_is_not_among_the_configured_ones_is_told_how_to_name_itself() -> None:
    problem = only_problem(nodes=NODES, node="n3", secret=SECRET)

    assert "n1, n2" in problem
    assert "SESSIONHA_NODE" in problem


def test_a_router_observes_a_cluster_without_being_one_of_its_nodes() -> None:
    settings = Settings.observe({}, nodes=NODES, secret=SECRET)

    assert settings.description.order == ("n1", "n2")
    assert not settings.has_peers


def test_four_configured_nodes_keep_two_backups_and_a_keyword_decides_otherwise() -> None:
    nodes = ",".join(f"n{n}=http://10.0.0.{n}:7946" for n in range(1, 5))

    assert load(nodes=nodes, node="n1", secret=SECRET).backups == 2
    assert load(nodes=nodes, node="n1", secret=SECRET, backups=1).backups == 1


def test_more_backups_than_other_nodes_are_refused() -> None:
    assert "`backups` = 2" in only_problem(nodes=NODES, node="n1", secret=SECRET, backups=2)


def test_configured_nodes_need_a_listener() -> None:
    problem = only_problem(nodes=NODES, node="n1", secret=SECRET, listen="off")

    assert "`listen` is off" in problem


@pytest.mark.parametrize("text", ["cluster = 1\n", "node = 3\n", "[cluster\n"])
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "c.toml", text)

    assert str(file) in problems(config=file)[0]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "missing.toml" in only_problem(config=tmp_path / "missing.toml")


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"nodes": NODES, "node": "n1"}, {"listen": "0.0.0.0:7946"}])
def test_peers_without_a_secret_are_refused(how: dict[str, object]) -> None:
    problem = only_problem(**how)

    assert "SESSIONHA_SECRET" in problem
    assert "`sessionha secret`" in problem


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        ("changeme", "placeholder"),
        ("secret", "placeholder"),
        ("please-CHANGE-ME-before-production-1234567", "placeholder"),
        ("a8f3", "4 bytes, at least 32"),
        ("a" * 40, "not random"),
        (["", SECRET], "not empty"),
    ],
)
def test_a_secret_that_can_be_guessed_is_refused_and_not_told(secret: object, reason: str) -> None:
    problem = only_problem(secret=secret)

    assert reason in problem
    assert (
        str(secret)
        not in problem.replace("`sessionha secret`", "").replace("`secret`", "")[len("secret 1") :]
    )


def test_every_secret_of_a_list_is_checked() -> None:
    assert "secret 2" in only_problem(secret=[SECRET, "short-1"])


def test_a_printed_secret_is_accepted_and_never_the_same() -> None:
    secret = new_secret()

    assert load(secret=secret).secret == (secret.encode(),)
    assert secret != new_secret()


def test_several_secrets_can_be_given_in_one_variable() -> None:
    first, second = new_secret(), new_secret()

    settings = load({"SESSIONHA_SECRET": f"{first}, {second}"})

    assert settings.secret == (first.encode(), second.encode())
    assert settings.keys(PEER_LABEL)[0] == hkdf(first.encode(), PEER_LABEL)


def test_a_secret_file_is_read_again_on_a_reload(tmp_path: Path) -> None:
    first, second = new_secret(), new_secret()
    file = write(tmp_path / "secret", f"{first}\n")
    settings = load({"SESSIONHA_SECRET_FILE": str(file)})

    write(file, f"{second}\n{first}\n")

    assert settings.secret == (first.encode(),)
    assert settings.reloaded().secret == (second.encode(), first.encode())


@pytest.mark.parametrize(("text", "reason"), [("", "is empty"), ("short-1\n", "bytes")])
def test_a_bad_secret_file_is_refused_at_start_and_on_a_reload(
    tmp_path: Path, text: str, reason: str
) -> None:
    file = write(tmp_path / "secret", new_secret())
    settings = load(secret_file=file)
    write(file, text)

    assert reason in only_problem(secret_file=file)
    with pytest.raises(InvalidSettings, match=reason):
        settings.reloaded()


def test_a_secret_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "nowhere" in only_problem(secret_file=tmp_path / "nowhere", listen="127.0.0.1:7946")


def test_a_secret_and_a_file_from_one_source_contradict(tmp_path: Path) -> None:
    file = write(tmp_path / "secret", new_secret())

    assert "both given" in only_problem(secret=SECRET, secret_file=file)


def test_a_secret_keyword_beats_a_file_named_by_the_environment(tmp_path: Path) -> None:
    settings = load({"SESSIONHA_SECRET_FILE": str(tmp_path / "absent")}, secret=SECRET)

    assert settings.secret == (SECRET.encode(),)
    assert settings.reloaded() == settings


def test_a_file_keyword_beats_a_secret_in_the_environment(tmp_path: Path) -> None:
    secret = new_secret()
    file = write(tmp_path / "secret", secret)

    assert load({"SESSIONHA_SECRET": SECRET}, secret_file=file).secret == (secret.encode(),)


def test_a_cluster_on_loopback_may_do_without_a_secret() -> None:
    settings = load(nodes=LOOPBACK, node="n1", secret="insecure-loopback")

    assert settings.insecure_loopback


@pytest.mark.parametrize(
    ("nodes", "listen"),
    [(NODES, None), (LOOPBACK, "0.0.0.0:7001"), ("n1=http://web-1:7946", "127.0.0.1:7946")],
)
def test_insecure_loopback_refuses_every_other_address(nodes: str, listen: str | None) -> None:
    found = problems(nodes=nodes, node="n1", listen=listen, secret="insecure-loopback")

    assert all("loopback addresses only" in each for each in found)


def test_insecure_loopback_keeps_the_administration_on_the_host_too() -> None:
    """Its tokens come from the secret, which everybody knows then."""
    found = only_problem(
        nodes=LOOPBACK, node="n1", admin="0.0.0.0:7947", secret="insecure-loopback"
    )

    assert "`admin` has 0.0.0.0:7947" in found


# --- documentation --------------------------------------------------------------------------------


def test_the_settings_page_is_the_table() -> None:
    """`make docs` writes the page anew."""
    page = Path(__file__).parent.parent / "docs" / "settings.md"

    assert page.read_text(encoding="utf-8") == markdown()


def test_what_belongs_to_the_code_is_not_taken_for_a_setting() -> None:
    """Nor for another one whose name looks like it."""
    environ = {"SESSIONHA_MAX_AGE": "3", "SESSIONHA_SECRET_KEY": "x", "SESSIONHA_SAME_SITE": "lax"}
    with pytest.raises(InvalidSettings) as caught:
        Settings.load(environ, max_agee=4, samesite="lax")
    told = "\n".join(caught.value.problems)
    for name in ("max_age", "secret_key", "same_site"):
        assert f"pass `{name}=` to SessionMiddleware" in told
    assert "`max_agee` is not a setting of sessionha: did you mean `max_age=`" in told
    assert "`samesite` is not a setting of sessionha: did you mean `same_site=`" in told


@pytest.mark.parametrize("given", [{}, {"SESSIONHA_NODE": "n9"}], ids=["unset", "unknown"])
def test_who_does_not_know_its_node_is_told_only_that(given: dict[str, str]) -> None:
    environ = {
        "SESSIONHA_NODES": "n1=http://127.0.0.1:7951,n2=http://127.0.0.1:7952",
        "SESSIONHA_SECRET": "insecure-loopback",
        **given,
    }
    with pytest.raises(InvalidSettings) as caught:
        Settings.load(environ)
    assert len(caught.value.problems) == 1
    assert "set SESSIONHA_NODE to this node's ID" in caught.value.problems[0]


def test_the_arguments_of_the_middleware_are_known() -> None:
    taken = inspect.signature(SessionMiddleware).parameters.values()
    named = [each.name for each in taken if each.kind is not each.VAR_KEYWORD]
    assert [name for name in named if name not in ("app", "engine")] == [*ARGUMENTS]


# --- quorum mode ----------------------------------------------------------------------------------


def test_a_majority_brings_its_own_defaults() -> None:
    """Contract G1, R18: a copy is required, and absent nodes are awaited for 10 minutes."""
    nodes = "n1=http://127.0.0.1:7001,n2=http://127.0.0.1:7002,n3=http://127.0.0.1:7003"
    secret = new_secret()
    quorum = Settings.load({}, node="n1", nodes=nodes, secret=secret)
    assert (quorum.consistency, quorum.min_copies, quorum.forget_after) == ("quorum", 1, 600.0)
    other = Settings.load({}, node="n1", nodes=nodes, secret=secret, consistency="available")
    assert (other.min_copies, other.forget_after) == (0, 30.0)


def described(path: Path, *roles: str) -> Settings:
    """The settings of n1 where nodes n1, n2, … with these roles are written down."""
    tables = [
        f'[[node]]\nid = "n{number}"\npeer = "10.0.0.{number}:7946"\nrole = "{role}"\n'
        for number, role in enumerate(roles, 1)
    ]
    return Settings.load({}, config=write(path, "".join(tables)), node="n1", secret=new_secret())


def test_a_majority_decides_where_three_nodes_vote(tmp_path: Path) -> None:
    """Contract, section 2: `available` for two and where nodes are found. A witness is a voter and
    holds nothing; one of the pair beside it goes on without a copy."""
    path = tmp_path / "cluster.toml"
    assert described(path, "server", "server").consistency == "available"
    pair = described(path, "server", "server", "witness")
    assert (pair.consistency, pair.backups, pair.min_copies) == ("quorum", 1, 0)
    four = described(path, "server", "server", "spare", "witness")
    assert (four.consistency, four.backups, four.min_copies) == ("quorum", 1, 1)
    found = Settings.load({}, node="n1", nodes="dns://web.example:7946", secret=new_secret())
    assert found.consistency == "available"


def test_a_witness_needs_a_vote(tmp_path: Path) -> None:
    """Where nobody votes it would be for nothing."""
    with pytest.raises(InvalidSettings) as caught:
        described(tmp_path / "cluster.toml", "server", "witness")
    (problem,) = caught.value.problems
    assert "`witness` only votes" in problem


def test_a_majority_is_one_of_nodes_that_are_written_down() -> None:
    """Nobody can count a majority of nodes that are found."""
    problem = only_problem(
        node="n1", nodes="dns://web.example:7946", secret=new_secret(), consistency="quorum"
    )
    assert "`consistency` = `quorum` needs nodes that are written down" in problem


def test_a_wrong_file_tells_every_mistake_with_its_line(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.toml",
        "# a cluster\n[cluster]\nheartbeat = 'soon'\nsecrets = 1\n\n"
        "[[node]]\nid = 'n1'\npeer = 'h:1'\n[[node]]\nid = 'n2'\npeer = 'nowhere'\n\n"
        "[[node]]\nid = 'n1'\npeer = 'h:1'\nwieght = 2\n[nodes]\n",
    )
    found = "\n".join(problems(config=file))
    for part in (
        f"`heartbeat` = 'soon' ({file}, line 3) must be",
        f"`{file}, line 4: secrets` is not a setting of sessionha: did you mean `secret`?",
        f"{file}, line 9, [[node]]: node n2: `peer` must be http://HOST:PORT",
        f"{file}, line 13, [[node]]: node n1: unknown key `wieght`; did you mean `weight`?",
        f"{file}: [nodes] is not a table that sessionha knows",
    ):
        assert part in found
    inline = write(tmp_path / "d.toml", "node = [{id = 'n1', peer = 'nowhere'}]\n")
    assert any(f"{inline}, [[node]] 1: node n1:" in each for each in problems(config=inline))


def test_admission_says_who_may_join_and_who_may_start() -> None:
    """System 3 (j): with `dynamic` a node need not be written down."""
    nodes = "n1=http://10.0.0.1:7946,n2=http://10.0.0.2:7946"
    given = {"nodes": nodes, "secret": SECRET, "node": "n9"}
    assert any("or set `admission` to dynamic" in each for each in problems(**given))
    found = Settings.load({}, **given, admission="dynamic", advertise="10.0.0.9:7946")
    assert (found.listen, found.advertise) == ("0.0.0.0:7946", "10.0.0.9:7946")
    seeking = {"node": "n1", "nodes": "dns://shop:7946", "secret": SECRET}
    assert Settings.load({}, **seeking).admission == "dynamic"
    refused = problems(**seeking, admission="static-only")
    assert any("`admission` must be `dynamic` where nodes are found" in each for each in refused)


def test_a_process_says_which_of_its_nodes_engines_it_is(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(
        f'[cluster]\nnode = "n1"\nsecret = "{SECRET}"\n'
        '[[node]]\nid = "n1"\npeer = "10.0.0.1:7946"\n'
        'engines = [{url = "http://10.0.0.1:8001"}, {type = "api", url = "http://10.0.0.1:8002"}]\n'
        '[[node]]\nid = "n2"\npeer = "10.0.0.2:7946"\n'
    )
    assert Settings.load({}, config=path).engine_type == "web"
    assert Settings.load({}, config=path, url="http://10.0.0.1:8002/").engine_type == "api"
