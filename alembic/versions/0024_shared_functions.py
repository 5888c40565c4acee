"""Tokens as pgjwt makes them, byte for byte, where its functions are ours; keys of objects without an extension.

The stand-ins refuse an empty secret, and what a token holds never makes `verify` fail: it is not valid then.

Lock impact: `storage.objects`, where it is ours, is locked for a moment.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import MADE_HERE, ddl, option

revision = "alfred_0024_shared_functions"
down_revision = "alfred_0023_task_queue"
branch_labels = None
depends_on = None

REPLACE = r"""
    DO $do$ BEGIN
        IF to_regprocedure('extensions.alfred_hmac(bytea,bytea,text)') IS NULL THEN
            RETURN;
        END IF;
        CREATE OR REPLACE FUNCTION extensions.alfred_hmac(message bytea, secret bytea, algorithm text) RETURNS bytea
        LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $hmac$
        DECLARE
            block integer := CASE algorithm WHEN 'sha256' THEN 64 ELSE 128 END;
            key bytea := secret;
            inner_pad bytea := '';
            outer_pad bytea := '';
        BEGIN
            IF length(secret) = 0 THEN
                RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                    MESSAGE = 'the secret is empty, so that anybody could sign: use a key of 32 bytes or more';
            END IF;
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
        CREATE OR REPLACE FUNCTION extensions.sign(payload json, secret text, algorithm text DEFAULT 'HS256') RETURNS text
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $sign$
            SELECT signables || '.' || extensions.algorithm_sign(signables, secret, algorithm)
            FROM (SELECT extensions.url_encode(convert_to('{"alg":"' || algorithm || '","typ":"JWT"}', 'UTF8'))
                || '.' || extensions.url_encode(convert_to(payload::text, 'UTF8')) AS signables) AS parts
        $sign$;
        CREATE OR REPLACE FUNCTION extensions.verify(token text, secret text, algorithm text DEFAULT 'HS256')
        RETURNS TABLE (header json, payload json, valid boolean)
        LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog AS $verify$
        DECLARE
            number text := '^-?[0-9]+([.][0-9]+)?([eE][+-]?[0-9]+)?$';
            parts text[] := string_to_array(token, '.');
            -- An empty secret and an unknown algorithm are the caller's errors, whatever the token.
            signature text := extensions.algorithm_sign(COALESCE(parts[1] || '.' || parts[2], ''), secret, algorithm);
            moment numeric := extract(epoch FROM now());
        BEGIN
            valid := false;
            BEGIN
                header := convert_from(extensions.url_decode(parts[1]), 'UTF8')::json;
                payload := convert_from(extensions.url_decode(parts[2]), 'UTF8')::json;
                valid := cardinality(parts) = 3
                    -- Comparing digests takes the same time wherever the signatures differ.
                    AND sha256(convert_to(parts[3], 'UTF8')) = sha256(convert_to(signature, 'UTF8'))
                    AND COALESCE(header ->> 'alg' = algorithm, false)
                    AND CASE
                        WHEN payload ->> 'nbf' IS NULL THEN true
                        WHEN payload ->> 'nbf' ~ number THEN (payload ->> 'nbf')::numeric <= moment
                        ELSE false
                    END
                    AND CASE
                        WHEN payload ->> 'exp' IS NULL THEN true
                        WHEN payload ->> 'exp' ~ number THEN (payload ->> 'exp')::numeric > moment
                        ELSE false
                    END;
            EXCEPTION WHEN OTHERS THEN
                -- What somebody else wrote into a token is no error of this statement's.
                valid := false;
            END;
            RETURN NEXT;
        END
        $verify$;
    END $do$
"""

RESTORE = r"""
    DO $do$ BEGIN
        IF to_regprocedure('extensions.alfred_hmac(bytea,bytea,text)') IS NULL THEN
            RETURN;
        END IF;
        CREATE OR REPLACE FUNCTION extensions.alfred_hmac(message bytea, secret bytea, algorithm text) RETURNS bytea
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
        CREATE OR REPLACE FUNCTION extensions.sign(payload json, secret text, algorithm text DEFAULT 'HS256') RETURNS text
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $sign$
            SELECT signables || '.' || extensions.algorithm_sign(signables, secret, algorithm)
            FROM (SELECT extensions.url_encode(convert_to(json_build_object('alg', algorithm, 'typ', 'JWT')::text, 'UTF8'))
                || '.' || extensions.url_encode(convert_to(payload::text, 'UTF8')) AS signables) AS parts
        $sign$;
        CREATE OR REPLACE FUNCTION extensions.verify(token text, secret text, algorithm text DEFAULT 'HS256')
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
    END $do$
"""


def _key_of_objects(default: str) -> str:
    return f"""
        DO $do$ BEGIN
            IF obj_description(to_regclass('storage.objects'), 'pg_class') = '{MADE_HERE}' THEN
                ALTER TABLE storage.objects ALTER COLUMN id SET DEFAULT {default};
            END IF;
        END $do$
    """


# Not marked as `shared`: tenants need nothing that is undone here, so that a downgrade need not wait until they are gone.
def upgrade() -> None:
    if option("schema") is None:
        ddl(REPLACE)
        ddl(_key_of_objects("gen_random_uuid()"))


def downgrade() -> None:
    if option("schema") is None:
        ddl(_key_of_objects("extensions.uuid_generate_v4()"))
        ddl(RESTORE)
