"""Extensions, and functions that stand in for those that are missing.

Only the schema `extensions` comes before them, as several are created inside it. What is there already is
left as it is; only `vector` is indispensable. What was found and chosen is kept in `alfred_db_capabilities`.

Lock impact: none on tables.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import create_schemas, ddl, drop_schemas, shared

revision = "alfred_0001_extensions"
down_revision = None
branch_labels = ("alfred_db",)
depends_on = None

# A role may lack the right, a platform may not offer it, pg_cron wants its own database: none of it is fatal.
CREATE_EXTENSIONS = """
    DO $do$
    DECLARE
        visible name := COALESCE(
            (SELECT s FROM unnest(current_schemas(false)) AS s WHERE s IN ('extensions', 'public') LIMIT 1),
            current_schema()
        );
        wanted record;
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
            EXECUTE format('CREATE EXTENSION vector SCHEMA %I', visible);
        END IF;
        FOR wanted IN
            SELECT name, home FROM (VALUES
                (1, 'uuid-ossp', 'extensions'),
                (2, 'pgcrypto', 'extensions'),
                (3, 'pgjwt', 'extensions'),
                (4, 'pg_trgm', visible::text),
                (5, 'pg_stat_statements', 'extensions'),
                (6, 'pg_cron', 'pg_catalog')
            ) AS list (place, name, home)
            WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = name)
                AND EXISTS (SELECT FROM pg_available_extensions AS offered WHERE offered.name = list.name)
                -- These two must be preloaded, which shows in their settings: a plain role sees no more than that.
                AND (name NOT IN ('pg_stat_statements', 'pg_cron') OR EXISTS (
                    SELECT FROM pg_settings WHERE pg_settings.name LIKE replace(list.name, 'pg_cron', 'cron') || '.%'
                ))
            ORDER BY place
        LOOP
            BEGIN
                EXECUTE format('CREATE EXTENSION %I SCHEMA %I', wanted.name, wanted.home);
            EXCEPTION
                WHEN insufficient_privilege OR feature_not_supported OR undefined_file OR undefined_object
                    OR invalid_parameter_value OR object_not_in_prerequisite_state OR raise_exception
                THEN NULL;
            END;
        END LOOP;
    END
    $do$
"""

UUID_FALLBACK = """
    DO $do$ BEGIN
        IF to_regprocedure('extensions.uuid_generate_v4()') IS NULL THEN
            CREATE FUNCTION extensions.uuid_generate_v4() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
            AS 'SELECT pg_catalog.gen_random_uuid()';
            COMMENT ON FUNCTION extensions.uuid_generate_v4() IS 'made by alfred-db';
        END IF;
    END $do$
"""

# pgjwt's signatures (RFC 7519 with HS256, HS384, HS512) over the server's own sha functions and RFC 2104.
JWT_FALLBACK = r"""
    DO $do$ BEGIN
        IF to_regprocedure('extensions.sign(json,text,text)') IS NOT NULL THEN
            RETURN;
        END IF;
        CREATE FUNCTION extensions.alfred_hmac(message bytea, secret bytea, algorithm text) RETURNS bytea
        LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $hmac$
        DECLARE
            block integer := CASE algorithm WHEN 'sha256' THEN 64 ELSE 128 END;
            key bytea := secret;
            inner_pad bytea := '';
            outer_pad bytea := '';
        BEGIN
            IF algorithm NOT IN ('sha256', 'sha384', 'sha512') THEN
                RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                    MESSAGE = format('unknown algorithm %L: use sha256, sha384 or sha512', algorithm);
            END IF;
            IF length(key) > block THEN
                key := CASE algorithm WHEN 'sha256' THEN sha256(key) WHEN 'sha384' THEN sha384(key) ELSE sha512(key) END;
            END IF;
            key := key || decode(repeat('00', block - length(key)), 'hex');
            inner_pad := key;
            outer_pad := key;
            FOR place IN 0 .. block - 1 LOOP
                inner_pad := set_byte(inner_pad, place, get_byte(key, place) # 54);
                outer_pad := set_byte(outer_pad, place, get_byte(key, place) # 92);
            END LOOP;
            RETURN CASE algorithm
                WHEN 'sha256' THEN sha256(outer_pad || sha256(inner_pad || message))
                WHEN 'sha384' THEN sha384(outer_pad || sha384(inner_pad || message))
                ELSE sha512(outer_pad || sha512(inner_pad || message))
            END;
        END
        $hmac$;
        CREATE FUNCTION extensions.url_encode(data bytea) RETURNS text
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $encode$
            SELECT translate(encode(data, 'base64'), E'+/=\n', '-_')
        $encode$;
        CREATE FUNCTION extensions.url_decode(data text) RETURNS bytea
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $decode$
            SELECT decode(translate(data, '-_', '+/') || repeat('=', (4 - length(data) % 4) % 4), 'base64')
        $decode$;
        CREATE FUNCTION extensions.algorithm_sign(signables text, secret text, algorithm text) RETURNS text
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $sign$
            SELECT extensions.url_encode(extensions.alfred_hmac(
                convert_to(signables, 'UTF8'),
                convert_to(secret, 'UTF8'),
                CASE algorithm WHEN 'HS256' THEN 'sha256' WHEN 'HS384' THEN 'sha384' WHEN 'HS512' THEN 'sha512'
                    ELSE algorithm END
            ))
        $sign$;
        CREATE FUNCTION extensions.sign(payload json, secret text, algorithm text DEFAULT 'HS256') RETURNS text
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $sign$
            SELECT signables || '.' || extensions.algorithm_sign(signables, secret, algorithm)
            FROM (SELECT extensions.url_encode(convert_to(json_build_object('alg', algorithm, 'typ', 'JWT')::text, 'UTF8'))
                || '.' || extensions.url_encode(convert_to(payload::text, 'UTF8')) AS signables) AS parts
        $sign$;
        CREATE FUNCTION extensions.verify(token text, secret text, algorithm text DEFAULT 'HS256')
        RETURNS TABLE (header json, payload json, valid boolean)
        LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $verify$
            SELECT
                parts.header,
                parts.payload,
                parts.header ->> 'alg' = algorithm
                    -- Comparing digests takes the same time wherever the signatures differ.
                    AND sha256(convert_to(signature, 'UTF8'))
                        = sha256(convert_to(extensions.algorithm_sign(signables, secret, algorithm), 'UTF8'))
                    AND COALESCE(to_timestamp((parts.payload ->> 'nbf')::double precision) <= now(), true)
                    AND COALESCE(to_timestamp((parts.payload ->> 'exp')::double precision) > now(), true)
            FROM (
                SELECT
                    convert_from(extensions.url_decode(split_part(token, '.', 1)), 'UTF8')::json AS header,
                    convert_from(extensions.url_decode(split_part(token, '.', 2)), 'UTF8')::json AS payload,
                    split_part(token, '.', 3) AS signature,
                    split_part(token, '.', 1) || '.' || split_part(token, '.', 2) AS signables
            ) AS parts
        $verify$;
        COMMENT ON FUNCTION extensions.sign(json, text, text) IS 'made by alfred-db';
    END $do$
"""

SET_UPDATED_AT = """
    CREATE FUNCTION extensions.set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$function$
"""

MAKE_MONTH_PARTITIONS = """
    CREATE FUNCTION extensions.make_month_partitions(parent regclass, months integer DEFAULT 3)
    RETURNS integer LANGUAGE plpgsql AS $function$
DECLARE
    home text;
    base text;
    key text;
    rest regclass;
    month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    part text;
    bounds text;
    storage text;
    made integer := 0;
BEGIN
    SELECT n.nspname, c.relname, a.attname, nullif(p.partdefid, 0)::regclass INTO STRICT home, base, key, rest
    FROM pg_partitioned_table p
    JOIN pg_class c ON c.oid = p.partrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
    WHERE p.partrelid = parent;
    EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', parent);
    FOR ahead IN 0 .. months LOOP
        part := format('%I.%I', home, base || to_char(month, '_YYYY_MM'));
        bounds := format(
            'FROM (%L) TO (%L)',
            to_char(month, 'YYYY-MM-DD 00:00:00+00'),
            to_char(month + interval '1 month', 'YYYY-MM-DD 00:00:00+00')
        );
        IF to_regclass(part) IS NULL THEN
            EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, parent);
            IF rest IS NOT NULL THEN
                -- Rows not committed yet would be neither moved nor, when they are there, allowed.
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', rest);
                SELECT array_to_string(reloptions, ', ') INTO storage FROM pg_class WHERE oid = rest;
                IF storage IS NOT NULL THEN
                    EXECUTE format('ALTER TABLE %s SET (%s)', part, storage);
                END IF;
                EXECUTE format(
                    'WITH early AS (DELETE FROM %s WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO %s SELECT * FROM early',
                    rest, key, month AT TIME ZONE 'UTC', key, (month + interval '1 month') AT TIME ZONE 'UTC', part
                );
            END IF;
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES %s', parent, part, bounds);
            made := made + 1;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN made;
END
$function$
"""

CAPABILITIES = """
    CREATE TABLE extensions.alfred_db_capabilities (
        name TEXT NOT NULL,
        provided_by TEXT NOT NULL,
        version TEXT,
        schema_name TEXT,
        found_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_alfred_db_capabilities PRIMARY KEY (name),
        CONSTRAINT ck_alfred_db_capabilities_provided_by CHECK (provided_by IN ('extension', 'fallback', 'nothing'))
    )
"""

FOUND = """
    INSERT INTO extensions.alfred_db_capabilities (name, provided_by, version, schema_name)
    SELECT
        list.name,
        CASE WHEN e.oid IS NOT NULL THEN 'extension' WHEN list.fallback THEN 'fallback' ELSE 'nothing' END,
        e.extversion,
        e.extnamespace::regnamespace::text
    FROM (VALUES
        ('vector', false), ('uuid-ossp', true), ('pgcrypto', true), ('pgjwt', true),
        ('pg_trgm', false), ('pg_stat_statements', false), ('pg_cron', false)
    ) AS list (name, fallback)
    LEFT JOIN pg_extension AS e ON e.extname = list.name
"""

DROP_FALLBACKS = """
    DO $do$ BEGIN
        IF obj_description(to_regprocedure('extensions.uuid_generate_v4()'), 'pg_proc') = 'made by alfred-db' THEN
            DROP FUNCTION extensions.uuid_generate_v4();
        END IF;
        IF obj_description(to_regprocedure('extensions.sign(json,text,text)'), 'pg_proc') = 'made by alfred-db' THEN
            DROP FUNCTION extensions.verify(text, text, text);
            DROP FUNCTION extensions.sign(json, text, text);
            DROP FUNCTION extensions.algorithm_sign(text, text, text);
            DROP FUNCTION extensions.url_decode(text);
            DROP FUNCTION extensions.url_encode(bytea);
            DROP FUNCTION extensions.alfred_hmac(bytea, bytea, text);
        END IF;
    END $do$
"""


@shared
def upgrade() -> None:
    create_schemas("extensions")
    for statement in (
        CREATE_EXTENSIONS,
        UUID_FALLBACK,
        JWT_FALLBACK,
        SET_UPDATED_AT,
        MAKE_MONTH_PARTITIONS,
        CAPABILITIES,
        FOUND,
    ):
        ddl(statement)


@shared
def downgrade() -> None:
    ddl("DROP TABLE extensions.alfred_db_capabilities")
    ddl("DROP FUNCTION extensions.make_month_partitions(regclass, integer)")
    ddl("DROP FUNCTION extensions.set_updated_at()")
    ddl(DROP_FALLBACKS)
    drop_schemas("extensions")
