"""Checks the page book/watch.md, or writes it anew: EXEUNT [--renew].

The page's programs are those of book/watch, and each session on it is what the command prints: the
same lines, but for numbers, addresses and the order of rows. What the page's text says of a session
(`FACTS`) must hold in the page's session and in a new one. A machine that is busy may have threads
run in another order, so a session has five tries.
"""
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(HERE, "../../book/watch.md")
PROGRAMS = os.path.join(HERE, "../../book/watch")
TRIES = 5

exeunt = os.path.abspath(sys.argv[1])
renew = sys.argv[2:] == ["--renew"]
page = open(PAGE, encoding="utf-8").read()
faults = []


def rows(session):
    """The table of a session, a dictionary for each row. Columns are where the headings are."""
    lines = session.splitlines()
    at = next((at for at, line in enumerate(lines) if "entry function" in line), None)
    if at is None:
        return []
    headings = [(found.group(), found.start(), found.end()) for found in re.finditer(r"\S+(?: \S+)*", lines[at])]
    found = []
    for line in lines[at + 1:]:
        if line.startswith("      "):
            continue
        # A cell overlaps its heading: numbers end where it ends, words begin where it begins.
        cells = [(cell.group(), cell.start(), cell.end()) for cell in re.finditer(r"\S+(?: \S+)*", line)]
        row = {name: "" for name, _, _ in headings}
        for text, start, end in cells:
            name = next((name for name, low, high in headings if start < high and end > low), None)
            if name:
                row[name] = text
        if row["entry function"]:
            found.append(row)
    return found


def kib(row):
    """How much of its stack a thread has used, and the stack's size."""
    units = {"KiB": 1, "MiB": 1024}
    return [float(number) * units[unit] for number, unit in re.findall(r"([\d.]+) (KiB|MiB)", row["stack, at most"])]


def must(holds, what):
    if not holds:
        raise AssertionError(what)


def pool(session, is_page):
    first, main = rows(session)
    stacks, most = int(first["stacks"]), int(first["most at once"])
    # Python joins threads before they end.
    must(main["stacks"] == "1" and stacks - 8 < int(first["ended"]) <= stacks, "the threads of the pools ended")
    # A pool creates a thread for a task if none of its threads is idle.
    must(50 < stacks <= 200 and f"{stacks + 1} threads: " in session, f"{stacks} threads")
    # The last threads of a pool may still end.
    must(most <= 8, f"{most} at once")
    must(first["deepest stack"].endswith("KiB"), "the depth is known")
    if is_page:
        must(f"\n{stacks} threads lived for some milliseconds each" in page, f"the text says {stacks} threads")
        must(f"never more than {['', '', '', '', 'four', 'five', 'six', 'seven', 'eight'][most]} at" in page, "most at once")
        must(first["mean life"].endswith(" ms"), "some milliseconds")


def leak(session, _):
    counts = {row["entry function"]: row for row in rows(session)}
    must((counts["session"]["stacks"], counts["session"]["ended"]) == ("20", "20"), "20 sessions ended")
    watchdog = counts["watchdog"]
    must((watchdog["stacks"], watchdog["ended"], watchdog["most at once"]) == ("20", "0", "20"), "20 watchdogs left")
    must(watchdog["started by"] == "session" and counts["session"]["started by"] == "main", "who has started them")
    must("41 threads: 21 ended, 20 still ran" in session, "the headline")


def backtrace(session, _):
    main, watchdog = rows(session)
    must((main["entry function"], watchdog["entry function"]) == ("main", "watchdog"), "the two longest lives")
    must(watchdog["how it ended"] == "alive when the process ended, in pause of watchdog", "where it waits")
    must("      at session\n" in session and "      in watchdog\n" in session, "where it was created")


def stacks(session, is_page):
    found = rows(session)
    must([row["entry function"] for row in found[:2]] == ["parse", "parse"], "the deepest ones")
    used = [kib(row) for row in found if row["entry function"] != "main"]
    must(all(size == 64 << 10 for _, size in used), "64 MiB each")
    most = max(touched for touched, _ in used)
    # The array has 293 KiB.
    must(293 <= most < 400 and max(touched for touched, _ in used[2:]) < 100, f"{most} KiB at most")
    if is_page:
        must(f"No thread used more than {most:.0f} KiB of its 64 MiB" in page, f"the text says {most:.0f} KiB")


def attached(session, _):
    counts = {row["entry function"]: row for row in rows(session)}
    must(set(counts) == {"session", "cleaner", "main"}, "the three functions")
    session_row = counts["session"]
    must(int(session_row["ended"]) >= 2 and session_row["most at once"] == "1", "one session after the other")
    must((counts["cleaner"]["ended"], counts["main"]["ended"]) == ("0", "0"), "two threads run on")
    must(not any(row["started by"] for row in counts.values()), "nobody saw who has started them")
    must("it runs on; " in session, "the process runs on")


def refused(session, _):
    must("is a Go program, whose goroutines are no threads: use the Go module of exeunt in it" in session, "refused")


# By a session's command, without `exeunt watch`, and a process's number as PID.
FACTS = {
    "--summary -- python3 server.py": pool,
    "--summary -- ./leak": leak,
    "--backtrace --sort life --top 2 -- ./leak": backtrace,
    "--sort stack -- ./stacks": stacks,
    "--pid PID --for 2s --summary": attached,
    "-- /usr/local/go/bin/go version": refused,
}


def normal(session):
    """The session without what differs from run to run."""
    session = re.sub(r"(ended), \d+ (still ran|run on)", r"\1", session)
    session = re.sub(r"python3\.\d+\+0x[0-9a-f]+", "python3+ADDRESS", session)
    session = re.sub(r"\b\d+(\.\d+)? (ns|µs|ms|s)\b", "T", session)
    lines, libc = [], False
    for line in session.splitlines():
        # What is in libc depends on its symbols.
        if line.startswith("      at ") and not re.search(r"at (session|watchdog|main)$", line):
            line, libc = "      at (libc)", line.startswith("      at ") and lines[-1:] == ["      at (libc)"]
            if libc:
                continue
        line = re.sub(r"  +0(?=  )", "  T", line)
        line = re.sub(r"CPU 0 user", "CPU T user", line)
        line = re.sub(r", 0 system", ", T system", line)
        lines.append(re.sub(r"\d+(\.\d+)?", "N", re.sub(r"(?<=\S)  +", "  ", line)).strip(" "))
    # The rows of a table in any order.
    return "\n".join(lines[:3] + sorted(set(lines[3:])))


def run(command, folder):
    """What the command prints."""
    words = shlex.split(command)
    program = None
    try:
        if "--pid" in words:
            program = subprocess.Popen(["./requests"], cwd=folder)
            # It creates threads for some time before it is watched.
            time.sleep(1)
            at = words.index("--pid") + 1
            words[at] = str(program.pid)
        shown = subprocess.run([exeunt, *words[1:]], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               env={**os.environ, "PATH": "/usr/bin:/bin", "NO_COLOR": "1"}, timeout=120)
    finally:
        if program:
            program.kill()
            program.wait()
    return f"$ {' '.join(words)}\n{shown.stderr.decode()}"


def session(old, folder):
    """Checks one session of the page. Returns the one that is to be there."""
    command = old.splitlines()[0].removeprefix("$ ")
    key = re.sub(r"--pid \d+", "--pid PID", command.removeprefix("exeunt watch "))
    check = FACTS.pop(key, None)
    if check is None:
        faults.append(f"{command}: no facts are known of this session")
        return old
    program = command.split(" -- ")[-1].split()[0]
    if program.startswith("/") and not shutil.which(program):
        print(f"NOT RUN: {command}: there is no {program}")
        return old
    for attempt in range(TRIES):
        new = run(command, folder)
        try:
            check(new, False)
            if renew:
                return new
            check(old, True)
            must(normal(old) == normal(new), f"other lines:\n{normal(old)}\n--- now\n{normal(new)}")
            print(f"{command}: {len(new.splitlines())} lines")
            return old
        except (AssertionError, KeyError, ValueError) as fault:
            wrong = f"{command}: {fault!r:.2000}\n{new}"
    faults.append(wrong)
    return old


programs = re.findall(r"<!-- program: (\S+) -->\n```\w+\n(.*?)```\n", page, re.S)
if sorted(name for name, _ in programs) != sorted(os.listdir(PROGRAMS)):
    faults.append(f"the page shows other programs than those of book/watch: {[name for name, _ in programs]}")
for name, text in programs:
    source = open(os.path.join(PROGRAMS, name), encoding="utf-8").read()
    if renew:
        page = page.replace(text, source)
    elif text != source:
        faults.append(f"book/watch/{name} is not what the page shows")

# The main thread's size is that.
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
with tempfile.TemporaryDirectory() as folder:
    for name in os.listdir(PROGRAMS):
        source = os.path.join(PROGRAMS, name)
        if name.endswith(".c"):
            built = ["gcc", "-pthread", source, "-o", os.path.join(folder, name.removesuffix(".c"))]
            subprocess.run(built, check=True)
        else:
            shutil.copy(source, folder)
    for old in re.findall(r"```text\n(\$ exeunt watch .*?)```\n", page, re.S):
        page = page.replace(old, session(old, folder))
faults += [f"this session is not on the page: {key}" for key in FACTS]
if renew:
    open(PAGE, "w", encoding="utf-8").write(page)
if faults:
    sys.exit("\n".join(faults))
