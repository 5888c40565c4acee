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


def misconfigured(text: str) -> str | None:
    """Return the advice for a connection that fails by its configuration, or None."""
    return next((advice for pattern, advice in _CONFIGURATION if re.search(pattern, text)), None)


def transient(text: str) -> str | None:
    """Return the advice for a transient error, or None."""
    return next((advice for pattern, advice in _TRANSIENT if re.search(pattern, text)), None)


def never_connected(text: str) -> bool:
    """Return whether a message is of a connection that was never made."""
    return bool(re.search(r"connection failed|connection to server .* failed|failed to resolve host", text))
