"""redis_exporter: what a monitoring tool asks (INFO, CONFIG, SLOWLOG, LATENCY ...)."""
import os
import re
import socket
import subprocess
import urllib.request

import redis

from checks import URL, run, until

PASSWORD = os.environ["REDIS_PASSWORD"]
PROGRAM = "prometheus-redis-exporter"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def version():
    said = subprocess.run([PROGRAM, "--version"], check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True).stdout
    return re.search(r"Exporter (\S+)", said)[1]


def scrape(address):
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
    except OSError:
        return None
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def metrics():
    redis.Redis.from_url(URL).set("k", "value")
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "REDIS_ADDR": URL.split("/0")[0].replace(":" + PASSWORD + "@", ""),
                   "REDIS_PASSWORD": PASSWORD}
    with subprocess.Popen([PROGRAM, f"--web.listen-address={address}", "--check-keys=k",
                           "--include-system-metrics", "--export-client-list"], env=environment,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as exporter:
        try:
            seen = until(lambda: scrape(address), "the exporter's answer")
        finally:
            exporter.terminate()
        errors = exporter.stderr.read()
    assert seen["redis_up"] == "1", errors
    assert float(seen["redis_connected_clients"]) >= 1
    assert seen['redis_key_size{db="db0",key="k"}'] == "5"
    assert float(seen["redis_slowlog_last_id"]) >= -1, "SLOWLOG"
    assert any(name.startswith("redis_commands_total") for name in seen), "INFO commandstats"
    scrape_errors = [name for name, value in seen.items()
                     if name.startswith("redis_exporter_last_scrape_error") and value != "0"]
    assert not scrape_errors, errors


run(version(), metrics)
