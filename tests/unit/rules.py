"""What a statement of the library must not hold, so that it runs unchanged on Citus and leaks nothing.

`violations(statement)` names everything that is wrong. A function that is in none of the three sets below is
refused too: find out what it is (`SELECT provolatile FROM pg_proc WHERE proname = ...`) and add it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Delete, Insert, Join, Select, Table, TableSample, TextClause, Update, types
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, Case, Cast, ColumnClause, Extract
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import (
    CTE,
    AliasedReturnsRows,
    ScalarSelect,
    SelectBase,
    Subquery,
    TableClause,
    TableValuedAlias,
    Values,
)

DIALECT = psycopg.dialect()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VOLATILE = _words(
    "clock_timestamp currval gen_random_bytes gen_random_uuid lastval nextval random random_normal set_config setval"
    " timeofday txid_current pg_current_xact_id uuid_generate_v1 uuid_generate_v4 uuidv4 uuidv7 pg_notify pg_sleep"
    " pg_advisory_lock pg_advisory_lock_shared pg_advisory_unlock pg_advisory_xact_lock"
    " pg_advisory_xact_lock_shared pg_try_advisory_lock pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared"
    " gen_salt make_month_partitions run_command_on_shards"
)
STABLE = _words(
    "concat concat_ws current_date current_database current_schema current_schemas current_setting current_time"
    " current_timestamp current_user date_bin date_part date_trunc format json_agg json_build_object json_object_agg jsonb_agg"
    " jsonb_build_array jsonb_build_object jsonb_object_agg localtime localtimestamp now obj_description"
    " pg_backend_pid pg_relation_size pg_total_relation_size quote_literal quote_nullable row_to_json session_user"
    " age pg_current_snapshot statement_timestamp string_agg to_char to_date to_json to_jsonb to_number to_regclass to_timestamp"
    " transaction_timestamp phraseto_tsquery_default word_similarity_op similarity_op"
)
IMMUTABLE = _words(
    "asin chr cos date_part make_date numnode querytree radians regexp_match rpad sin tsquery_and tsquery_not"
    " abs all any array array_agg array_append array_cat array_fill array_length array_position array_remove"
    " array_to_string binary_quantize"
    " avg bit_length bool_and bool_or btrim cardinality ceil char_length coalesce cosine_distance count cume_dist"
    " decode dense_rank digest encode every exists exp floor generate_series greatest hashtext hashtextextended"
    " inner_product jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_each jsonb_each_text"
    " jsonb_object_field_text jsonb_object_keys jsonb_path_exists jsonb_path_query jsonb_path_query_array jsonb_set jsonb_strip_nulls jsonb_typeof l2_distance lag lead least left"
    " length ln log lower ltrim make_interval max md5 min mod ntile nullif octet_length percentile_cont"
    " phraseto_tsquery plainto_tsquery position pg_snapshot_xmax pg_snapshot_xmin power rank regexp_replace repeat replace right round row_number"
    " rtrim setweight sha256 sign similarity split_part sqrt starts_with chr textcat tsvector_to_array strict_word_similarity strpos subvector"
    " substr substring sum to_tsquery to_tsvector trim ts_headline ts_rank ts_rank_cd unnest upper vector_dims"
    " system bernoulli vector_norm vector_send websearch_to_tsquery width_bucket word_similarity"
)
OF_THEIR_OWN = re.compile(r"pg_notify|pg_(try_)?advisory_\w+")
SEVERAL_ROWS = re.compile(r"\b(UPDATE|DELETE|ON CONFLICT|MERGE|INSERT)\b", re.IGNORECASE)
KEYWORDS_BEFORE_PARENTHESIS = _words(
    "analyze stdin stdout copy and as by conflict cross exists filter from group having in inner insert interval into join key not of on or"
    " order over partition returning select set values vector halfvec numeric varchar char when where with within"
    " then else case using update delete limit offset union all distinct lateral recursive is like ilike materialized"
    " check hnsw bit text jsonb uuid bigint integer timestamptz any some between cast row index only"
)


def violations(statement: Any) -> list[str]:
    """Everything that is wrong with a statement; empty for a good one."""
    if isinstance(statement, str | TextClause):
        sql = statement if isinstance(statement, str) else statement.text
        return [*_in_text(sql, whole=True), *_looked_up(sql)]
    compiled = statement.compile(dialect=DIALECT)
    found = [*_in_sql(str(compiled), statement), *_looked_up(str(compiled))]
    parts = [statement, *(cte.element for cte in compiled.ctes or ())]
    seen: set[int] = set()
    for part in parts:
        found += _in_data_statement(part)
        found += _in_anything(part, seen, alone=part is statement and _has_no_table(statement))
    found += _read_after_insert(statement, [cte.element for cte in compiled.ctes or ()])
    return list(dict.fromkeys(found))


def _has_no_table(statement: Any) -> bool:
    return isinstance(statement, Select) and not statement.get_final_froms()


# The text, where the tree does not say


def _in_sql(sql: str, statement: Any) -> Iterator[str]:
    if re.search(r"\b(SELECT|RETURNING|DISTINCT)\s+\*|\w\.\*|,\s*\*(\s|,|$)", sql, re.IGNORECASE):
        yield "`*` instead of a list of columns"
    if re.match(r"\s*MERGE\b", sql, re.IGNORECASE):
        yield "MERGE"


OF_EXTENSIONS = _words(
    "binary_quantize cosine_distance digest gen_random_bytes gen_salt inner_product l2_distance make_month_partitions sign similarity"
    " strict_word_similarity subvector uuid_generate_v1 uuid_generate_v4 vector_dims vector_norm vector_send"
    " halfvec_send bit_send sparsevec_send word_similarity"
)
SYNTAX = _words(
    "all any array bernoulli coalesce every exists greatest least nullif position system trim unnest"
)
"""What the parser itself knows, `unnest` of several arrays among it."""


def _looked_up(sql: str) -> Iterator[str]:
    """Functions of PostgreSQL without their schema: one planted elsewhere in the search_path may fit better."""
    bare = re.sub(r"'[^']*'", "''", sql)
    for name in dict.fromkeys(re.findall(r"(?<![\w.])\"?([a-z_]\w*)\"?\(\s*[^)\s]", bare)):
        if name in (VOLATILE | STABLE | IMMUTABLE) - OF_EXTENSIONS - SYNTAX:
            yield f"{name} without the schema pg_catalog"


def _in_text(text: str, *, whole: bool, where: str = "text") -> Iterator[str]:
    """What can be said of SQL that is written as text: less than of a tree, so it is judged more strictly."""
    bare = re.sub(r"'[^']*'", "''", text)
    names = {name.lower() for name in re.findall(r"\b([a-z_]\w*)\s*\(", bare, re.IGNORECASE)}
    names |= {
        name.lower() for name in re.findall(r"\bcurrent_(?:timestamp|date|time|user)\b", bare, re.IGNORECASE)
    }
    writes = not whole or SEVERAL_ROWS.search(bare) is not None
    if whole:
        yield from _in_sql(bare, None)
    for name in sorted(names - KEYWORDS_BEFORE_PARENTHESIS):
        if name == "set_config" or (
            OF_THEIR_OWN.fullmatch(name) and (writes or re.search(r"\bFROM\b", bare, re.I))
        ):
            yield f"{where}: {name}"
        elif name in VOLATILE:
            if writes:
                yield f"{where}: volatile {name}"
        elif name in STABLE:
            if writes and re.search(rf"\b{name}\s*\(\s*[^)\s]", bare, re.IGNORECASE):
                yield f"{where}: stable {name} with an argument"
            if writes and re.search(rf"\b(coalesce|case)\b[^;]*\b{name}\b", bare, re.IGNORECASE):
                yield f"{where}: {name} inside COALESCE or CASE"
        elif name not in IMMUTABLE and not re.search(
            rf"\b(INTO|AS|TABLE|WITH|COPY)\s+(\w+\.)?{name}\s*\(", bare, re.I
        ):
            yield f"{where}: {name} is not classified in tests/unit/rules.py"


# The tree


def _own(element: Any) -> Iterator[Any]:
    """The nodes of an expression, without those of the sub-selects in it."""
    yield element
    if isinstance(element, SelectBase | Subquery | CTE | ScalarSelect):
        return
    for child in element.get_children():
        yield from _own(child)


def _every(element: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """The nodes of a statement, those of its sub-selects too."""
    seen = set() if seen is None else seen
    if id(element) in seen:
        return
    seen.add(id(element))
    yield element
    for child in element.get_children():
        yield from _every(child, seen)
    if isinstance(element, Select):
        for source in element.get_final_froms():
            yield from _every(source, seen)


def _in_anything(statement: Any, seen: set[int], *, alone: bool) -> Iterator[str]:
    for node in _every(statement, seen):
        if isinstance(node, FunctionElement):
            name = _name(node)
            if name == "set_config":
                yield "set_config: say SET LOCAL"
            if OF_THEIR_OWN.fullmatch(name) and not alone:
                yield f"{name} is no statement of its own"
            if name not in VOLATILE | STABLE | IMMUTABLE and not isinstance(node, TableValuedAlias):
                yield f"function {name} is not classified in tests/unit/rules.py"
        if isinstance(node, BindParameter) and node.literal_execute:
            yield f"parameter {node.key} is written into the statement"
        if isinstance(node, TableSample) and any(
            not isinstance(part, ColumnClause) for part in node.sampling.clauses
        ):
            yield "TABLESAMPLE: the percentage is no literal"
        if isinstance(node, Join) and not _joins(node):
            yield "JOIN: no column of one table is compared with one of the other"
        if isinstance(node, TextClause):
            yield from (found for found in _in_text(node.text, whole=False) if "not classified" in found)


def _asked_again(statement: Update | Delete) -> bool:
    """Whether rows that a CTE has locked must meet a further condition, and are not one that is named by its key.

    The planner may take an index of such a condition, and compare all that it has with each row that is locked.
    """
    conditions = list(statement._where_criteria)
    parts = [part for condition in conditions for part in _own(condition)]
    tables = [part.table for part in parts if isinstance(part, ColumnClause)]
    locks = any(
        isinstance(node, Select) and node._for_update_arg is not None
        for table in tables
        if isinstance(table, CTE)
        for node in _every(table.element)
    )
    keys = set(statement.table.primary_key)
    named = any(
        isinstance(part, BinaryExpression) and part.left in keys and isinstance(part.right, BindParameter)
        for part in parts
    )
    return locks and len(conditions) > 1 and not named


def _read_after_insert(statement: Any, ctes: Sequence[Any]) -> Iterator[str]:
    """What an INSERT in a CTE writes is seen by what Citus runs after it, in the order of the text; PostgreSQL has one snapshot."""
    written: set[Any] = set()
    for part in (*ctes, statement):
        for table in sorted(_read_outside_ctes(part) & written, key=str):
            yield f"{table}: read after an INSERT in a CTE, which Citus shows; read it before"
        if isinstance(part, Insert):
            written.add(part.table)


def _read_outside_ctes(part: Any) -> set[Any]:
    waiting, seen, found = [part], set[int](), set[Any]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, CTE):
            continue
        seen.add(id(node))
        if isinstance(node, Table):
            found.add(node)
        waiting += list(node.get_children())
        if isinstance(node, Select):
            waiting += node.get_final_froms()
    return found - ({part.table} if isinstance(part, Insert) else set())


def _in_data_statement(statement: Any) -> Iterator[str]:
    if isinstance(statement, Update | Delete):
        kind = type(statement).__name__.upper()
        for where, expression in _set_and_where(statement):
            yield from _in_update(expression, f"{kind} {where}")
        if _asked_again(statement):
            yield f"{kind} WHERE: a condition on rows that a CTE has locked"
    if isinstance(statement, Insert):
        for expression in _inserted(statement):
            if any(isinstance(node, ScalarSelect | Subquery) for node in _own(expression)):
                yield "INSERT VALUES: a sub-select; say INSERT ... SELECT"
        for expression in _on_conflict(statement):
            yield from _immutable(expression, "ON CONFLICT")
        if isinstance(statement.select, Select):
            yield from _in_insert_select(statement, statement.select)
    if isinstance(statement, Update | Delete | Insert):
        for expression in statement._returning:
            yield from _immutable(expression, "RETURNING")


def _in_insert_select(statement: Insert, rows: Select[Any]) -> Iterator[str]:
    """What Citus refuses at the top of INSERT ... SELECT, though not in a MATERIALIZED CTE before it."""
    if rows._for_update_arg is not None:
        yield "INSERT ... SELECT: a lock at its top; lock in a materialized CTE"
    sources = list(rows.get_final_froms())
    if not sources and not rows._where_criteria:
        yield "INSERT ... SELECT of values; say VALUES"
    sources = [part for source in sources for part in _sides(source)]
    computed = [
        name
        for part in (*rows.selected_columns, *rows._where_criteria)
        for node in _own(part)
        for kind, name in (_volatility(node),)
        if kind != "immutable"
    ]
    if any(isinstance(source, CTE) for source in sources) and computed:
        yield f"INSERT ... SELECT: {computed[0]} beside a CTE; compute it in the materialized CTE"
    for source in sources:
        if _is_computed_first(source):
            continue
        missing = sorted(_filled(statement))
        if computed or missing:
            yield f"INSERT ... SELECT with {(computed or missing)[0]}: {source} is not read in a materialized CTE"


def _sides(source: Any) -> Iterator[Any]:
    if isinstance(source, Join):
        yield from (*_sides(source.left), *_sides(source.right))
    else:
        yield source


def _is_computed_first(source: Any) -> bool:
    if isinstance(source, CTE):
        written = isinstance(source.element, Insert | Update | Delete)
        return written or any(str(prefix) == "MATERIALIZED" for prefix, _ in source._prefixes)
    if isinstance(source, TableClause) and source.schema == "pg_temp":
        return True  # no table of the distributed schema: Citus reads it on the coordinator, before it writes
    return isinstance(source, TableValuedAlias | Values)


def _filled(statement: Insert) -> Iterator[str]:
    """The columns that the server fills with what is not immutable: a time, a number, a random key."""
    names = {getattr(name, "key", name) for name in statement._select_names or ()}
    for column in statement.table.c:
        default = getattr(column.server_default, "arg", "")
        sql = str(getattr(default, "text", default))
        if column.name not in names and (column.identity is not None or "(" in sql):
            yield f"the default of {column.name}"


def _joins(join: Join) -> bool:
    """Whether a condition has columns of both sides, or one of them is no table: a constant, a CTE, a LATERAL."""
    if join.full:
        return True  # on false, it puts the rows of the shared catalogs below each other
    sides = [list(_sides(side)) for side in (join.left, join.right)]
    if not all(any(_is_table(part) for part in side) for side in sides) or not _is_table(join.right):
        return True
    used = {part.table for part in _every(join.onclause) if isinstance(part, ColumnClause)}
    return all(any(part in used for part in side) for side in sides)


def _is_table(source: Any) -> bool:
    if isinstance(source, AliasedReturnsRows) and not isinstance(source, CTE):
        source = source.element
    return isinstance(source, Table)


def _set_and_where(statement: Update | Delete) -> Iterator[tuple[str, Any]]:
    yield from (("WHERE", criterion) for criterion in statement._where_criteria)
    if not isinstance(statement, Update):
        return
    values: dict[Any, Any] = dict(statement._values or {})
    yield from (("SET", value) for value in values.values() if hasattr(value, "get_children"))
    named = {getattr(key, "key", key) for key in values}
    for column in statement.table.c:
        if column.onupdate is not None and column.onupdate.is_clause_element and column.key not in named:
            yield "SET", column.onupdate.arg


def _inserted(statement: Insert) -> Iterator[Any]:
    rows: list[Iterable[Any]] = [(statement._values or {}).values()]
    for several in statement._multi_values:
        rows += [row.values() if isinstance(row, dict) else row for row in several]
    yield from (value for row in rows for value in row if hasattr(value, "get_children"))


def _on_conflict(statement: Insert) -> Iterator[Any]:
    clause: Any = statement._post_values_clause
    for value in dict(getattr(clause, "update_values_to_set", None) or {}).values():
        if hasattr(value, "get_children"):
            yield value
    if getattr(clause, "update_whereclause", None) is not None:
        yield clause.update_whereclause


def _in_update(expression: Any, where: str) -> Iterator[str]:
    for node in _own(expression):
        kind, name = _volatility(node)
        if isinstance(node, TextClause) or _is_raw(node):
            yield from _in_text(str(node), whole=False, where=where)
        elif kind == "volatile":
            yield f"{where}: volatile {name}"
        elif kind == "stable" and any(_is_column(part) for part in _own(node)):
            yield f"{where}: stable {name} over a column"
        if isinstance(node, Case) or (isinstance(node, FunctionElement) and _name(node) == "coalesce"):
            yield from _immutable(node, f"{where}: COALESCE or CASE")


def _immutable(expression: Any, where: str) -> Iterator[str]:
    for node in _own(expression):
        kind, name = _volatility(node)
        if isinstance(node, SelectBase | Subquery | ScalarSelect):
            yield f"{where}: a sub-select"
        elif isinstance(node, TextClause) or _is_raw(node):
            yield from _in_text(str(node), whole=False, where=where)
        elif kind != "immutable":
            yield f"{where}: {kind} {name}"


def _volatility(node: Any) -> tuple[str, str]:
    if isinstance(node, FunctionElement):
        name = _name(node)
        one_argument = name in (
            "to_tsvector",
            "plainto_tsquery",
            "websearch_to_tsquery",
            "to_tsquery",
            "ts_headline",
        )
        if name in VOLATILE:
            return "volatile", name
        if name in STABLE or (one_argument and len(list(node.clauses)) == 1):
            return "stable", name
    if isinstance(node, Extract) and _is_time(node.expr):
        return "stable", "extract"
    if isinstance(node, Cast):
        source, target = node.clause.type, node.type
        times = types.DateTime | types.Date | types.Time
        if isinstance(node.clause, BindParameter) or type(source) is type(target):
            return "immutable", ""
        if isinstance(source, times) or isinstance(target, times):
            return "stable", f"cast to {target}"
    if isinstance(node, BinaryExpression) and node.operator in (operators.add, operators.sub):
        intervals = [
            isinstance(side.type, types.Interval) or _makes_interval(side) for side in (node.left, node.right)
        ]
        if any(intervals) and not all(intervals):
            return "stable", "time plus or minus an interval"
    return "immutable", ""


def _makes_interval(node: Any) -> bool:
    return isinstance(node, FunctionElement) and _name(node) == "make_interval"


def _is_time(node: Any) -> bool:
    return isinstance(node.type, types.DateTime | types.NullType)


def _is_column(node: Any) -> bool:
    return isinstance(node, ColumnClause) and not node.is_literal


def _is_raw(node: Any) -> bool:
    return isinstance(node, ColumnClause) and node.is_literal


def _name(node: FunctionElement[Any]) -> str:
    if isinstance(node, TableValuedAlias | Values):
        return "unnest"
    return str(getattr(node, "name", type(node).__name__)).lower().removeprefix("pg_catalog.")
