"""Workflows: durable steps, and what it takes to go on after a kill."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

from harness import Target, at_most, interleaved, table

from .libraries import ABSURD, ALFRED, DBOS, RAW
from .runs import DIES_AFTER, POLL, STEPS, Bench, Run, rate, rates, ratio

__all__ = ["resume", "steps"]


def steps(bench: Bench) -> dict[str, float]:
    """Steps a second. Gives the rates."""
    contenders: dict[str, Callable[[], Run]] = {
        "raw fenced insert": partial(bench.steps, RAW, False, True),
        "alfred-db": partial(bench.steps, ALFRED, True),
        "alfred-db, durable function": partial(bench.steps, ALFRED, form="durable_"),
        "raw fenced insert, BEGIN": partial(bench.steps, RAW, False, False),
        "alfred-db, BEGIN": partial(bench.steps, ALFRED, False),
        "raw, lease extended": partial(bench.steps, RAW, True, True),
        "absurd": partial(bench.steps, ABSURD),
        "dbos": partial(bench.steps, DBOS),
    }
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.runs, contenders, failed)
    found = [
        target
        for form in ("", ", BEGIN")
        for other, least in ((f"raw fenced insert{form}", 0.6), ("dbos", 3))
        for target in ratio("steps", runs, f"alfred-db{form}", other, least)
    ]
    durable = "alfred-db, durable function"
    found += ratio("steps", runs, durable, "alfred-db", 0.8) + ratio("steps", runs, durable, "dbos", 4)
    notes = (
        f"{bench.sizes.workflows} workflows of {STEPS} steps that do nothing, one after the other in one thread; the time is"
        " that of the steps alone. A step is one transaction. Raw is an insert that checks the lease. Both are in"
        " AUTOCOMMIT; «BEGIN» is the same with BEGIN and COMMIT sent around each, for alfred-db by a `db.begin()` for each step;"
        " «lease extended» also extends it and counts the step, as `checkpoint` does once a tenth of the lease has passed."
        " «Durable function» is the same loop in a function that `@workflow` decorates, whose steps hold no connection between them."
        " alfred-db reads the finished steps"
        " once at the start; absurd and dbos look before each step whether it was done. CPU, WAL, commits and dead rows"
        " include starting and ending the workflows, for dbos also its launch."
    )
    bench.publish("Durable steps", notes, rates(runs, "step"), found, failed)
    return {name: rate(runs, name) for name in runs if runs[name]}


def resume(bench: Bench) -> None:
    """In a process that is warm, and in a new one from its connecting: until the end of the workflow."""
    ours = {"alfred-db": "", "alfred-db, durable function": "durable_"}
    contenders: dict[str, Callable[[], Run]] = {}
    for leased, when in ((False, ""), (True, ", from the kill")):
        for warm, where in ((True, "running"), (False, "new")):
            options = {"warm": warm, "leased": leased}
            contenders[f"raw SQL, {where}{when}"] = partial(bench.resume, RAW, **options)
            for name, form in ours.items():
                contenders[f"{name}, {where}{when}"] = partial(bench.resume, ALFRED, form, **options)
    contenders |= {"absurd, new": partial(bench.resume, ABSURD), "dbos, new": partial(bench.resume, DBOS)}
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.runs, contenders, failed)
    lines: list[list[str]] = []
    for name, of_name in runs.items():
        times = [run["seconds"] * 1000 for run in of_name]
        if times:
            line = [name, f"{median(times):,.0f} ms", f"{min(times):,.0f} to {max(times):,.0f}"]
            for part in ("connect", "take it over", "run it"):
                spent = [run["parts"][part] * 1000 for run in of_name if "parts" in run]
                line.append(f"{median(spent):,.1f} ms" if spent else "")
            lines.append(line)
    found: list[Target] = []
    for when, what in (("", "without the lease"), (", from the kill", "with the lease")):
        for where in ("running", "new"):
            for name in ours:
                mine, its = runs.get(f"{name}, {where}{when}"), runs.get(f"raw SQL, {where}{when}")
                if mine and its:
                    share = median(a["seconds"] / b["seconds"] for a, b in zip(mine, its, strict=True))
                    found.append(at_most(f"resume: {name} / raw SQL, {where} processes, {what}", share, 1.5))
    notes = (
        f"A workflow of {STEPS} steps whose process is killed (SIGKILL) after {DIES_AFTER}. «Running» is a process that is"
        " connected and has run another workflow before, as the workers are that are left when one dies; «new» is one that has"
        " imported its library, which is not in the time, and connects. It takes the workflow over and ends it; were a finished"
        " step to run again, or another one not to run, the run would be void. Raw SQL and alfred-db are in AUTOCOMMIT."
        " The lease is a second, which a step of alfred-db extends once a tenth of it has passed. In the first lines it has expired before the clock starts: this is"
        f" what the libraries need. «From the kill» is the whole time, from the death of the process: the other one looks every {POLL * 1000:.0f} ms, and"
        " the rest of the lease and half of that are the same part of both. By default the lease is 60 seconds for alfred-db and 120 for absurd."
        " Raw SQL takes over by one statement what has expired, and counts nothing; alfred-db looks by `reap` and `claim`, which count the crash,"
        " end what has no retries left, and resume the parent. A new process first looks for"
        " the versions that it has the code of. What it needs more is spent once: modules that the first use imports, and"
        " each kind of statement, which is built, compiled and planned when it is first used; the loop without a durable function also"
        " reads models, whose mapping is then configured. dbos has no lease: an executor resumes"
        " at its launch what has its own name; its time includes that launch, which checks its schema and starts threads, and the"
        " poll of the queue that resumed workflows go through."
    )
    header = ("", "median", "min to max", "connect", "take it over", "run it")
    bench.publish("Resume after a kill", notes, table(header, lines), found, failed)
