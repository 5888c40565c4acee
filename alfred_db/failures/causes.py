"""The causes that only the text of a message distinguishes: of libpq, and of poolers."""

from __future__ import annotations

import re

# libpq reports no SQLSTATE for a failed connection attempt: only these texts distinguish the causes. Other errors can be
# retried. If several hosts were tried, the message contains an error for each.
_CONFIGURATION: tuple[tuple[str, str], ...] = (
    (
        r"password authentication failed|no password supplied|password file|SASL authentication failed"
        r"|authentication failed for user",
        "check user and password of the database URL",
    ),
    (
        r'role ".*" does not exist|no such user|not permitted to log in',
        "check the user of the database URL",
    ),
    (
        r'database ".*" does not exist|no such database|is not currently accepting connections'
        r'|database ".*" is disabled|database does not allow connections',
        "create the database, or name another in the URL",
    ),
    (
        r"bouncer config error|server login failed",
        "the pooler cannot log in to the server: its log has the reason, and its configuration user and password",
    ),
    (r"permission denied for", "grant the role the missing right, or use another role"),
    (
        r"pg_hba\.conf|does not support SSL|sslmode|certificate|SSL error|sslrootcert|channel binding|GSSAPI"
        r"|private key|server requires encryption|authentication method",
        "check sslmode in the URL, the certificates, and pg_hba.conf on the server",
    ),
    (
        r"unsupported startup parameter",
        "a pooler refuses what the connection asks for: take it out of the URL and of PGOPTIONS, or add it to the"
        " pooler's ignore_startup_parameters",
    ),
    (
        r"invalid connection option|invalid .* value|invalid value for parameter|invalid integer value"
        r"|unrecognized configuration parameter|invalid command-line argument|invalid port number"
        r"|could not match .* port numbers|definition of service|service file|is not supported",
        "check the parameters of the database URL",
    ),
)

_TRANSIENT: tuple[tuple[str, str], ...] = (
    (
        r"session is (not )?read-only|server is (not )?in hot standby mode",
        "no server among the hosts is what target_session_attrs asks for; a failover may be on its way: try again",
    ),
    (
        r"the database system is|not yet accepting connections|bouncer is shutting down",
        "the server is stopping or starting; try again",
    ),
    (
        r"too many (clients|connections)|connection slots|no more connections allowed|client connections exceeded"
        r"|query_wait_timeout",
        "the server has no connection to spare; try again, or use fewer connections",
    ),
    (
        r"server login has been failing, try again|client_login_timeout|server DNS lookup failed",
        "the pooler cannot reach the server or log in to it, and its log has the reason: try again",
    ),
    (
        r"due to (idle-session|idle-in-transaction) timeout|client_idle_timeout|idle transaction timeout",
        "the server has ended a connection that idled for too long; run the transaction again",
    ),
)
"""Messages of transient errors, without SQLSTATE or of a pooler.

At such an error nothing has been executed or committed.
"""


# What a worker of Citus answered to a COPY is raised by the coordinator as an internal error: only the text is left.
_OF_WORKERS: tuple[tuple[str, str], ...] = (
    (r"duplicate key value violates unique constraint", "23505"),
    (r"violates foreign key constraint", "23503"),
    (r"violates not-null constraint", "23502"),
    (r"violates check constraint", "23514"),
    (r"conflicting key value violates exclusion constraint", "23P01"),
    (r"deadlock", "40P01"),
    (r"could not serialize access", "40001"),
    (r"due to lock timeout", "55P03"),
    (r"due to statement timeout|due to user request", "57014"),
    (r"(read-only|recovery) (mode|transaction)|in a read-only transaction", "25006"),
    (r"server closed the connection|connection (to the remote node|not open|.*failed)", "08006"),
)

_REFUSED_BY_CITUS: tuple[tuple[str, str, str], ...] = (
    (
        "0A000",
        r"[Cc]itus|distributed|colocated|reference table|router planner|repartition|Cartesian product"
        r"|functions used in (UPDATE|DELETE|the )|non-IMMUTABLE|metadata is synchronized|tenant schema",
        "Citus does not run this on a distributed table; read docs/howto/citus.md for what it runs instead",
    ),
    (
        "55000|0A000|XX000",
        r"operation is not allowed on this node",
        "this server is a worker of Citus; connect to the coordinator",
    ),
)


def passed_on(sqlstate: str, text: str) -> str:
    """Return the SQLSTATE of an error, or the one that it had where it happened."""
    if sqlstate != "XX000":
        return sqlstate
    return next((found for pattern, found in _OF_WORKERS if re.search(pattern, text)), sqlstate)


def refused_by_citus(sqlstate: str, text: str) -> str | None:
    """Return the advice for a statement that Citus refuses, or None."""
    found = (
        advice
        for states, pattern, advice in _REFUSED_BY_CITUS
        if re.fullmatch(states, sqlstate) and re.search(pattern, text)
    )
    return next(found, None)


def of_a_link(text: str) -> str | None:
    """Return the advice for a write of what is linked from another database, or None."""
    if "constraint matching the ON CONFLICT specification" in text:
        return (
            "if the table is linked from another database, it is only read here: write it there; if not, it lacks a unique"
            " constraint, which the doctor names"
        )
    if (
        re.search(r'cannot (insert into|update|delete from) view|foreign table ".*" does not allow', text)
        is None
    ):
        return None
    return "the table is linked from another database, and only read here; write it there"


def misconfigured(text: str) -> str | None:
    """Return the advice for a connection that fails by its configuration, or None."""
    return next((advice for pattern, advice in _CONFIGURATION if re.search(pattern, text)), None)


def transient(text: str) -> str | None:
    """Return the advice for a transient error, or None."""
    return next((advice for pattern, advice in _TRANSIENT if re.search(pattern, text)), None)


def never_connected(text: str) -> bool:
    """Return whether a message is of a connection that was never made."""
    return bool(re.search(r"connection failed|connection to server .* failed|failed to resolve host", text))
