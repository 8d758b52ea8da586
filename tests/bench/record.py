"""tests/bench/RESULTS.md: a section for each scenario, with the commit and the machine it is of."""
import os
import platform
import re
import subprocess
import sys
import time

from servers import TOP, Haproxy, Nearcache, Redis, Twemproxy, first_line

HERE = os.path.join(TOP, "tests", "bench")
FILE = os.path.join(HERE, "RESULTS.md")

PREFACE = """\
# Results

What `tests/bench/run` measured, each section of the commit and on the machine that it names; figures of
different machines don't compare. Where `others %` is not near 0 the machine had other things to do, and
ratios say more than figures. Not edited by hand: `tests/bench/run --record` writes it.
"""


def git(*args):
    done = subprocess.run(["git", "-C", TOP, *args], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def commit():
    changed = git("status", "--porcelain", "--", "sidecar", "protocol", "meson.build")
    return f"{git('rev-parse', '--short', 'HEAD')}{' with changes' if changed else ''}"


def field(path, name):
    """The value of `name : value` or NAME=value."""
    try:
        with open(path, encoding="utf-8") as f:
            match = re.search(rf'^{name}\s*[:=]\s*"?(.*?)"?$', f.read(), re.M)
    except OSError:
        return "?"
    return match[1] if match else "?"


def machine():
    kilobytes = field("/proc/meminfo", "MemTotal").split()[0]
    gigabytes = f"{int(kilobytes) / 1e6:.0f} GB, " if kilobytes.isdigit() else ""
    virtual = ", virtual" if "hypervisor" in field("/proc/cpuinfo", "flags").split() else ""
    return (f"{field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores{virtual}, {gigabytes}"
            f"{field('/etc/os-release', 'PRETTY_NAME')}, Linux {platform.release().split('-')[0]}, "
            f"{first_line('gcc', '--version')}")


def without_directories(text):
    """Where programs are is nobody's business."""
    return re.sub(r"(?<![^\s='\"])/(?:[^\s/'\"]+/)+", "", text)


def command_line(words):
    """As it was given, but for what changes no figure."""
    shown, skip = [], False
    for word in words:
        if not skip and word not in ("--record", "--output"):
            word = without_directories(word)
            shown.append(f"'{word}'" if re.search(r"[^\w=./:-]", word) else word)
        skip = word == "--output"
    return " ".join(["tests/bench/run", *shown])


def versions(options):
    """Of what was compared; commands as they were given."""
    known = [Nearcache.program(), Redis.program(), Twemproxy.program(), Haproxy.program()]
    started = [f"{name} (`{without_directories(text)}`)" for name, text in options.start]
    return "; ".join([version for version in known if version] + started)


def section_of(options, name, section):
    charts = "".join(f"\n![{name}]({file})\n" for file in section.charts)
    return (f"## {name}\n\nCommit {commit()}, {time.strftime('%Y-%m-%d')}, {options.rounds} rounds of "
            f"{options.seconds:g} s. {machine()}. {versions(options)}.\n\n"
            f"    {command_line(sys.argv[1:])}\n\n{section.text}{charts}")


def sections():
    """{heading: text} of the file as it is."""
    if not os.path.exists(FILE):
        return {}
    with open(FILE, encoding="utf-8") as f:
        parts = re.split(r"^(?=## )", f.read(), flags=re.M)[1:]
    return {part.split("\n")[0][len("## "):]: part.rstrip("\n") + "\n" for part in parts}


def record(options, order, name, section):
    """Puts the section into the file, in the place of the one that it had."""
    found = sections()
    found[name] = section_of(options, name, section)
    names = [*order, *(other for other in found if other not in order)]
    with open(FILE, "w", encoding="utf-8") as f:
        f.write("\n".join([PREFACE, *(found[other] for other in names if other in found)]))
    for file, text in section.charts.items():
        with open(os.path.join(HERE, file), "w", encoding="utf-8") as f:
            f.write(text)
