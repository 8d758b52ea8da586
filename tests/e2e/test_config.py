"""The nearcache binary's command line: --help, --check, --print-config, messages and exit codes.

Nothing here needs an upstream: every call ends before the first connection.
"""
import json
import subprocess

import pytest

from harness import NEARCACHE_BIN


def run(*args, **environment):
    done = subprocess.run([NEARCACHE_BIN, *args], env=environment, capture_output=True, text=True,
                          timeout=20, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(name="config_file")
def make_config_file(tmp_path):
    def make(content):
        path = tmp_path / "nearcache.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)
    return make


def test_help_names_every_setting():
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    _, printed, _ = run("--print-config", "--service", "s")
    for path in json.loads(printed):
        assert path == "_from" or f"\n  {path}=" in out or f"\n* {path}=" in out
    assert "\n* service=" in out and "\n  l1.ttl=" in out  # *: needs a restart
    assert max(map(len, out.splitlines())) <= 100


def test_version():
    code, out, err = run("--version")
    assert (code, err) == (0, "")
    assert out.startswith("nearcache ") and out.count("\n") == 1


def test_check(config_file):
    path = config_file({"service": "shop", "l1": {"ttl": "5s"}})
    assert run("--check", "--config", path) == (0, "configuration ok\n", "")


def test_flag_beats_environment_beats_file(config_file):
    path = config_file({"service": "shop", "l1": {"ttl": "5s", "max_memory": "8mb"}, "maxclients": 7})
    environment = {"NEARCACHE_CONFIG": path, "NEARCACHE_L1_TTL": "6s", "NEARCACHE_MAXCLIENTS": "8"}
    code, out, err = run("--print-config", "--maxclients=9", **environment)
    assert (code, err) == (0, "")
    printed = json.loads(out)
    assert (printed["l1.max_memory"], printed["l1.ttl"], printed["maxclients"]) == ("8mb", "6s", 9)
    assert printed["_from"] == {"service": f"{path}:1", "l1.max_memory": f"{path}:1",
                                "l1.ttl": "environment NEARCACHE_L1_TTL",
                                "maxclients": "command line"}


def test_printed_config_is_a_config(config_file):
    args = ("--service=a\\b", "--namespace=ä \"x\":", "--listen=:1", "--protected_mode=no",
            "--listen=unix:/s", "--dev")
    _, first, _ = run("--print-config", *args)
    code, second, err = run("--print-config", "--config", config_file(first))
    assert (code, err) == (0, "")
    before, after = json.loads(first), json.loads(second)
    del before["_from"], after["_from"]
    assert before == after
    assert before["namespace"] == "ä \"x\":" and before["listen"] == [":1", "unix:/s"]


def test_an_element_of_an_array_is_one_item(config_file):
    """Commas part the items of a text, not those of a list that is written as one."""
    patterns = ["a*", "user:[1,2]*"]
    _, printed, _ = run("--print-config", "--config",
                        config_file(json.dumps({"service": "s", "l1": {"stale_if_error": patterns}})))
    assert json.loads(printed)["l1.stale_if_error"] == patterns
    _, printed, _ = run("--print-config", "--service=s", "--set=l1.stale_if_error=a*, b")
    assert json.loads(printed)["l1.stale_if_error"] == ["a*", "b"]


def test_secrets_are_not_shown(config_file, tmp_path):
    password = tmp_path / "password"
    password.write_text("hidden3\n")
    code, out, err = run("--print-config", "--service=s", "--upstream=redis://u:hidden1@h",
                         f"--upstream.password_file={password}", NEARCACHE_AUTH_PASSWORD="hidden2")
    assert code == 0 and "hidden" not in out + err
    code, _, err = run("--check", "--config", config_file(out))
    assert code == 1 and err.count("*** stands for what --print-config does not show") == 2


@pytest.mark.parametrize("args, environment, message", [
    (["--servce", "s"], {}, "--servce: no such option; did you mean --service?"),
    (["stray"], {}, "stray: unexpected argument"),
    (["--set", "l1.ttl"], {}, "--set l1.ttl: expected path=value"),
    (["--service", "s", "--set", "l1.ttl=60x"], {},
     "--set l1.ttl=60x: not a time (like 500ms, 60s, 5m, 1h)"),
])
def test_usage_errors_exit_2(args, environment, message):
    code, out, err = run(*args, **environment)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"nearcache: {message}"


@pytest.mark.parametrize("args, environment, message", [
    ([], {}, "the service's name is missing: give --service NAME, NEARCACHE_SERVICE or \"service\" "
             "in the file"),
    (["--dev"], {}, "the service's name is missing: give --service NAME, NEARCACHE_SERVICE or "
                    "\"service\" in the file"),
    (["--service=s"], {"NEARCACHE_L1_TLL": "5s"},
     "environment NEARCACHE_L1_TLL: no such setting; did you mean NEARCACHE_L1_TTL?"),
    (["--service=s", "--config=/nowhere/n.json"], {}, "/nowhere/n.json: No such file or directory"),
    (["--service=s", "--upstream.password_file=/nowhere/p"], {},
     "command line: upstream.password_file=/nowhere/p: No such file or directory"),
    (["--service=s", "--set=client.soft_output=300mb", "--set=client.max_output=100mb"], {},
     "command line: client.soft_output: more than client.max_output, which comes first"),
    (["--service=s", "--dev", "--upstream=redis://h"], {},
     "command line: upstream.url: --dev brings an upstream of its own; leave out one of them"),
    (["--service=s", "--set=breaker.open_min=5s"], {},
     "command line: breaker.open_min: longer than breaker.open_max"),
    (["--service=s", "--set=breaker.open_max=20ms"], {},
     "command line: breaker.open_max: shorter than breaker.open_min"),
])
def test_configuration_errors_exit_1(args, environment, message):
    assert run("--check", *args, **environment) == (1, "", f"nearcache: {message}\n")


def test_all_errors_of_a_file_are_told_with_their_lines(config_file):
    path = config_file('{\n  "l1": {\n    "max_memry": "64mb",\n    "ttl": 60\n  },\n  "dev": 1\n}\n')
    assert run("--check", "--service=s", "--config", path) == (1, "", (
        f'nearcache: {path}:3: unknown setting "l1.max_memry"; did you mean "l1.max_memory"?\n'
        f"nearcache: {path}:4: l1.ttl=60: a time needs its unit (like 500ms, 60s, 5m, 1h)\n"
        f"nearcache: {path}:6: dev: expected true or false, not a number\n"))


def test_broken_json_is_told_with_its_line(config_file):
    path = config_file('{\n  "service": "s"\n  "dev": true\n}\n')
    assert run("--check", "--config", path) == (
        1, "", f"nearcache: {path}:3: not valid JSON: expected ',' or '}}', not a string\n")


def test_variables_of_kubernetes_are_ignored():
    injected = {"NEARCACHE_SERVICE_HOST": "10.0.0.1", "NEARCACHE_SERVICE_PORT": "6380",
                "NEARCACHE_PORT": "tcp://10.0.0.1:6380",
                "NEARCACHE_PORT_6380_TCP_ADDR": "10.0.0.1"}
    assert run("--check", NEARCACHE_SERVICE="s", **injected) == (0, "configuration ok\n", "")
