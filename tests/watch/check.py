"""Checks the rows of `exeunt watch --json`: FILE [--cpu MS] [--at-least N] [--fibers N] [--ended N] [--entered NAME:N]."""
import json
import sys

lines = [json.loads(line) for line in open(sys.argv[1])]
rows, process = lines[:-1], lines[-1]["process"]
faults = []
over = [row for row in rows if row["end"]["how"] not in ("alive", "ended_process", "never_ran", "not_armed", "replaced")]
if not process["watched"] or not process["complete"]:
    faults.append(f"not all was watched: {process}")
if len(rows) != process["stacks"] or len(over) != process["ended"]:
    faults.append(f"{len(rows)} births and {len(over)} ends, but {process}")
if len({row["id"] for row in rows}) != len(rows):
    faults.append("an id comes twice")
unarmed = [row for row in rows if row["end"]["how"] == "not_armed"]
if unarmed:
    faults.append(f"{len(unarmed)} stacks were not armed: {unarmed[0]}")
if "--at-least" in sys.argv and len(rows) < int(sys.argv[sys.argv.index("--at-least") + 1]):
    faults.append(f"{len(rows)} rows")
if "--ended" in sys.argv and len(over) < int(sys.argv[sys.argv.index("--ended") + 1]):
    faults.append(f"{len(over)} ends")
if "--entered" in sys.argv:
    name, number = sys.argv[sys.argv.index("--entered") + 1].split(":")
    if len([row for row in over if row["entry"] == name]) < int(number):
        faults.append(f"fewer than {number} ends of {name}")
if "--fibers" in sys.argv:
    fibers = [row for row in rows if row["kind"] == "fiber"]
    if len(fibers) < int(sys.argv[sys.argv.index("--fibers") + 1]) or any(row["migrations"] for row in fibers):
        faults.append(f"fibers: {fibers}")
if "--cpu" in sys.argv:
    mine = sum(row["cpu"]["user_us"] + row["cpu"]["system_us"] for row in rows if row["cpu"])
    all_of_it = process["user_us"] + process["system_us"]
    # The kernel's work before the first instruction of a process or a thread and after its last is in no
    # row: MS milliseconds for the process, and some microseconds for a thread.
    unseen = 1000 * int(sys.argv[sys.argv.index("--cpu") + 1]) + 50 * len(rows)
    if abs(all_of_it - mine) > 0.02 * all_of_it + unseen:
        faults.append(f"the rows have {mine} us of {all_of_it}")
if faults:
    sys.exit("\n".join(faults))
print(f"{len(rows)} stacks, {len(over)} ends")
