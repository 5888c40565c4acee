"""What the server counts, by SQL."""

from __future__ import annotations

__all__ = ["SERVER", "TABLES"]

SERVER = """
    SELECT
        (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend') AS connections,
        CAST(pg_catalog.current_setting('max_connections') AS integer) AS most,
        held.locks, held.waiting,
        (
            SELECT CAST(coalesce(pg_catalog.max(EXTRACT(epoch FROM pg_catalog.statement_timestamp() - xact_start)), 0) AS double precision)
            FROM pg_catalog.pg_stat_activity
            WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()
                AND backend_type = 'client backend'
        ) AS longest,
        one.xact_commit AS commits, one.xact_rollback AS rollbacks, one.deadlocks,
        pg_catalog.pg_database_size(one.datid) AS size
    FROM pg_catalog.pg_stat_database AS one
    CROSS JOIN LATERAL (
        SELECT pg_catalog.count(*) AS locks, pg_catalog.count(*) FILTER (WHERE NOT granted) AS waiting
        FROM pg_catalog.pg_locks WHERE database = one.datid
    ) AS held
    WHERE one.datname = pg_catalog.current_database()
"""

TABLES = """
    SELECT given.label AS name,
        pg_catalog.sum(live.n_live_tup) AS live,
        pg_catalog.sum(live.n_dead_tup) AS dead,
        pg_catalog.sum(pg_catalog.pg_total_relation_size(CAST(live.relid AS regclass))) AS bytes,
        pg_catalog.sum(coalesce(live.seq_scan, 0) + coalesce(live.idx_scan, 0)) AS scans,
        pg_catalog.sum(live.n_tup_ins + live.n_tup_upd + live.n_tup_del) AS writes
    FROM unnest(CAST(:labels AS text[]), CAST(:names AS text[])) AS given (label, name)
    CROSS JOIN LATERAL (
        SELECT CAST(pg_catalog.to_regclass(given.name) AS oid) AS part
        UNION
        SELECT CAST(tree.relid AS oid) FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(given.name)) AS tree
    ) AS parts
    JOIN pg_catalog.pg_stat_user_tables AS live ON live.relid = parts.part
    GROUP BY given.label
    ORDER BY given.label
"""
"""Of each table with its partitions; `labels` and `names` are arrays of the same length."""
