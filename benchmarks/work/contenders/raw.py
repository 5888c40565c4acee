"""The ceiling: SQL by hand over the tables of alfred-db, sent by psycopg and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from functools import cache
from typing import Any

import psycopg
from contender import CONNECT, RUN, TAKEN, Laps, polled, serve, wait_until
from psycopg.types.json import Jsonb

INSERT = "INSERT INTO tasks (id, task_id, intent, content) VALUES (%s, %s, %s, %s)"
INSERT_MANY = """
    INSERT INTO tasks (id, task_id, intent, content)
    SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::jsonb[])
"""
COLUMNS = """
    t.id, t.task_id, t.intent, t.content, t.metadata, t.priority, t.created_by, t.assigned_to, t.parent_task_id,
    t.available_at, t.retry_count, t.crash_count, t.max_retries, t.attempt_deadline_at, t.claim_seq, t.lease_token,
    t.lease_expires_at
"""
CLAIM = """
    WITH claimed AS MATERIALIZED (
        SELECT x.id, x.deadline FROM generate_series(5, 1, -1) AS level (priority)
        CROSS JOIN LATERAL (
            SELECT id, statement_timestamp() + timeout_seconds * interval '1 second' AS deadline FROM tasks
            WHERE status = 'pending' AND priority = level.priority AND available_at <= statement_timestamp()
            ORDER BY available_at, id LIMIT {limit} FOR NO KEY UPDATE SKIP LOCKED
        ) AS x
        LIMIT {limit}
    )
    UPDATE tasks t SET status = 'processing', worker_id = %(worker)s, lease_token = %(token)s,
        claim_seq = t.claim_seq + 1, lease_expires_at = statement_timestamp() + %(lease)s,
        attempt_started_at = statement_timestamp(), attempt_deadline_at = claimed.deadline,
        started_at = least(t.started_at, statement_timestamp()), updated_at = now()
    FROM claimed WHERE t.id = claimed.id RETURNING {columns}
"""
COMPLETED = """
    status = 'completed', completed_at = statement_timestamp(), lease_expires_at = NULL, attempt_deadline_at = NULL,
    updated_at = now()
"""
COMPLETE = f"""
    UPDATE tasks SET {COMPLETED} WHERE id = %(id)s AND status = 'processing' AND lease_token = %(token)s RETURNING id
"""
COMPLETE_MANY = f"""
    WITH held AS MATERIALIZED (
        SELECT t.id FROM unnest(%(ids)s::uuid[], %(tokens)s::uuid[]) AS given (id, token)
        JOIN tasks t ON t.id = given.id AND t.lease_token = given.token
        WHERE t.status = 'processing' ORDER BY t.id FOR NO KEY UPDATE OF t
    )
    UPDATE tasks t SET {COMPLETED} WHERE t.id = ANY(ARRAY(SELECT id FROM held)) RETURNING t.id
"""
FENCED_INSERT = """
    WITH own AS MATERIALIZED (
        SELECT id FROM workflow_executions
        WHERE id = %(execution)s AND status = 'running' AND lease_token = %(token)s FOR NO KEY UPDATE
    )
    INSERT INTO workflow_steps (execution_id, step_key, seq, name, output, lease_token)
    SELECT id, %(key)s::text, %(seq)s::int, %(key)s::text, %(output)s::jsonb, %(token)s::uuid FROM own
    ON CONFLICT DO NOTHING RETURNING execution_id
"""
EXTENDING_INSERT = """
    WITH own AS (
        UPDATE workflow_executions SET lease_expires_at = statement_timestamp() + interval '60 seconds',
            current_step = greatest(current_step, %(seq)s::int + 1)
        WHERE id = %(execution)s AND status = 'running' AND lease_token = %(token)s RETURNING id
    )
    INSERT INTO workflow_steps (execution_id, step_key, seq, name, output, lease_token)
    SELECT id, %(key)s::text, %(seq)s::int, %(key)s::text, %(output)s::jsonb, %(token)s::uuid FROM own
    ON CONFLICT DO NOTHING RETURNING execution_id
"""
START = """
    INSERT INTO workflow_executions (status, input_data, worker_id, lease_token, lease_expires_at, started_at)
    VALUES ('running', %(input)s, 'bench', %(token)s, now() + %(lease)s, now()) RETURNING id
"""
TAKE_OVER = """
    UPDATE workflow_executions SET lease_token = %(token)s, lease_expires_at = now() + interval '60 seconds'
    WHERE id = (
        SELECT id FROM workflow_executions WHERE status = 'running' AND lease_expires_at <= now()
        LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
    ) RETURNING id
"""
END = """
    UPDATE workflow_executions SET status = 'completed', completed_at = now(), lease_expires_at = NULL
    WHERE id = %(id)s AND status = 'running' AND lease_token = %(token)s
"""

kept: list[psycopg.Connection[Any]] = []
"""The connection of a process that is warm."""


def enqueue(url: str, jobs: int, way: str) -> dict[str, float]:
    """By COPY, `text` or `binary`: of rows that are complete already, or made from what `enqueue_many` takes."""
    form, complete = way.split(", ")
    contents = [{"number": number} for number in range(jobs)]
    rows = _rows(contents) if complete == "complete rows" else []
    with psycopg.connect(url, autocommit=True) as connection:
        start, cpu = time.perf_counter(), time.process_time()
        _copy(connection, form, rows or _rows(contents))
        return _times(start, cpu)


def file(url: str, jobs: int, each: int, how: str, autocommit: bool) -> dict[str, float]:
    """`each` in a call, by INSERT or by COPY; the rows are made while the clock runs."""
    contents = [{"number": number} for number in range(jobs)]
    with psycopg.connect(url, autocommit=autocommit) as connection:
        start, cpu = time.perf_counter(), time.process_time()
        for first in range(0, jobs, each):
            rows = _rows(contents[first : first + each])
            if how == "copy":
                _copy(connection, "binary", rows)
            elif each == 1:
                connection.execute(INSERT, rows[0])
            else:
                connection.execute(INSERT_MANY, [list(column) for column in zip(*rows, strict=True)])
            connection.commit()
        return _times(start, cpu)


def _copy(connection: psycopg.Connection[Any], form: str, rows: list[tuple[Any, ...]]) -> None:
    statement = f"COPY tasks (id, task_id, intent, content) FROM STDIN (FORMAT {form})"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        if form == "binary":
            copy.set_types(["uuid", "text", "text", "jsonb"])
        for row in rows:
            copy.write_row(row)


def _rows(contents: list[dict[str, int]]) -> list[tuple[Any, ...]]:
    """With ids of version 7, in order: random ones would go all over the indexes."""
    first = time.time_ns() * 4096 // 1_000_000
    rows: list[tuple[Any, ...]] = []
    for tick, content in enumerate(contents, first):
        number = (tick >> 12) << 80 | 7 << 76 | (tick & 0xFFF) << 64 | 2 << 62 | random.getrandbits(62)
        id = uuid.UUID(int=number)
        rows.append((id, str(id), "noop", Jsonb(content)))
    return rows


def drain(url: str, jobs: int, batch: int, autocommit: bool, at: float = 0.0) -> dict[str, Any]:
    """With `autocommit` a statement is a transaction; without, BEGIN and COMMIT are sent around it."""
    ran: list[int] = []
    with psycopg.connect(url, autocommit=autocommit) as connection:
        wait_until(at)
        start, cpu = time.perf_counter(), time.process_time()
        while len(ran) < jobs:
            claimed = connection.execute(_claim(batch), _own()).fetchall()
            connection.commit()
            if not claimed:
                break
            ran += [row[3]["number"] for row in claimed]
            done = connection.execute(COMPLETE if batch == 1 else COMPLETE_MANY, _done(claimed, batch))
            assert len(done.fetchall()) == len(claimed)
            connection.commit()
        return {**_times(start, cpu), "ran": ran}


def slots(url: str, count: int, at: float = 0.0) -> dict[str, Any]:
    """So many threads, each with its connection, that drain one by one in AUTOCOMMIT until nothing is left."""

    def one(connection: psycopg.Connection[Any]) -> list[int]:
        ran: list[int] = []
        while claimed := connection.execute(_claim(1), _own()).fetchall():
            ran += [row[3]["number"] for row in claimed]
            assert connection.execute(COMPLETE, _done(claimed, 1)).fetchall()
        return ran

    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        connections = [stack.enter_context(psycopg.connect(url, autocommit=True)) for _ in range(count)]
        wait_until(at)
        start, cpu = time.perf_counter(), time.process_time()
        ran = [number for found in pool.map(one, connections) for number in found]
        return {**_times(start, cpu), "ran": ran}


def drain_async(url: str, jobs: int, batch: int, autocommit: bool) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        ran: list[int] = []
        connection = await psycopg.AsyncConnection.connect(url, autocommit=autocommit)
        async with connection:
            start, cpu = time.perf_counter(), time.process_time()
            while len(ran) < jobs:
                claimed = await (await connection.execute(_claim(batch), _own())).fetchall()
                await connection.commit()
                if not claimed:
                    break
                ran += [row[3]["number"] for row in claimed]
                statement = COMPLETE if batch == 1 else COMPLETE_MANY
                done = await connection.execute(statement, _done(claimed, batch))
                assert len(await done.fetchall()) == len(claimed)
                await connection.commit()
            return {**_times(start, cpu), "ran": ran}

    return asyncio.run(run())


def watch(url: str, jobs: int, batch: int) -> dict[str, Any]:
    """Drain in AUTOCOMMIT, in rounds of one task and then a batch: their jobs and seconds, and those of the claims of one."""
    ran: list[int] = []
    claims: list[float] = []
    rounds: list[tuple[int, float]] = []
    with psycopg.connect(url, autocommit=True) as connection:
        while len(ran) < jobs:
            start, before = time.perf_counter(), len(ran)
            alone = connection.execute(_claim(1), _own()).fetchall()
            claims.append(time.perf_counter() - start)
            connection.execute(COMPLETE, _done(alone, 1)).fetchall()
            claimed = connection.execute(_claim(batch), _own()).fetchall()
            connection.execute(COMPLETE_MANY, _done(claimed, batch)).fetchall()
            ran += [row[3]["number"] for row in [*alone, *claimed]]
            rounds.append((len(ran) - before, time.perf_counter() - start))
    return {"ran": ran, "claims": claims, "rounds": rounds}


@cache
def _claim(batch: int) -> str:
    """The LIMIT is written into it: with a parameter it would be planned anew each time."""
    return CLAIM.format(limit=batch, columns=COLUMNS)


def _own() -> dict[str, Any]:
    return {"worker": "bench", "token": uuid.uuid4(), "lease": timedelta(seconds=60)}


def _done(claimed: list[Any], batch: int) -> dict[str, Any]:
    if batch == 1:
        return {"id": claimed[0][0], "token": claimed[0][15]}
    return {"ids": [row[0] for row in claimed], "tokens": [row[15] for row in claimed]}


def steps(url: str, workflows: int, each: int, extending: bool, autocommit: bool) -> dict[str, Any]:
    """A fenced insert a step; `extending` also does what a checkpoint does to the execution."""
    spent = cpu_spent = 0.0
    ran: list[int] = []
    with psycopg.connect(url, autocommit=autocommit) as connection:
        for number in range(workflows):
            own = _started(connection, 60)
            connection.commit()
            start, cpu = time.perf_counter(), time.process_time()
            for seq in range(each):
                ran.append(number * each + seq)
                _step(connection, EXTENDING_INSERT if extending else FENCED_INSERT, own, seq)
                connection.commit()
            spent += time.perf_counter() - start
            cpu_spent += time.process_time() - cpu
            connection.execute(END, own)
    return {"seconds": spent, "cpu": cpu_spent, "ran": ran}


def begin(url: str, each: int, die_after: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        own = _started(connection, 1)
        for seq in range(die_after):
            _step(connection, FENCED_INSERT, own, seq)
        os.kill(os.getpid(), signal.SIGKILL)


def warm(url: str, each: int) -> None:
    """Run a workflow, and keep the connection for `resume`."""
    connection = psycopg.connect(url, autocommit=True)
    connection.execute(TAKE_OVER, {"token": uuid.uuid4()})
    own = _started(connection, 60)
    _go_through(connection, own, each)
    kept.append(connection)


def resume(url: str, each: int, poll: float) -> dict[str, Any]:
    """From connecting to the end of the workflow that was begun, or without connecting in a process that is warm."""
    laps = Laps()
    connection = kept[0] if kept else psycopg.connect(url, autocommit=True)
    laps.lap(CONNECT)
    token = uuid.uuid4()
    row = polled(lambda: connection.execute(TAKE_OVER, {"token": token}).fetchone(), poll)
    laps.lap(TAKEN)
    ran = _go_through(connection, {"id": row[0], "token": token}, each)
    laps.lap(RUN)
    connection.close()
    return laps.result(ran)


def _go_through(connection: psycopg.Connection[Any], own: dict[str, Any], each: int) -> list[int]:
    ran: list[int] = []
    statement = "SELECT step_key, output FROM workflow_steps WHERE execution_id = %s"
    finished = dict(connection.execute(statement, (own["id"],)).fetchall())
    for seq in range(each):
        if f"step-{seq}" not in finished:
            ran.append(seq)
            _step(connection, FENCED_INSERT, own, seq)
    connection.execute(END, own)
    return ran


def _started(connection: psycopg.Connection[Any], lease: float) -> dict[str, Any]:
    values = {"input": Jsonb({}), "token": uuid.uuid4(), "lease": timedelta(seconds=lease)}
    row = connection.execute(START, values).fetchone()
    assert row is not None
    return {"id": row[0], "token": values["token"]}


def _step(connection: psycopg.Connection[Any], statement: str, own: dict[str, Any], seq: int) -> None:
    values = {"execution": own["id"], "token": own["token"], "key": f"step-{seq}", "seq": seq}
    done = connection.execute(statement, {**values, "output": json.dumps({"number": seq})})
    assert done.fetchone() is not None


def _times(start: float, cpu: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    serve(enqueue, file, drain, drain_async, slots, watch, steps, begin, warm, resume)
