"""The tables of Supabase's services as they are after the migrations of 2025: columns and constraints as facts, in
words of our own. GoTrue's `auth` has some 70 migrations behind it, the storage service's `storage` some 60.
"""

from __future__ import annotations

TIME = "timestamp with time zone"

# Of GoTrue's table of users, whose form changed most: what came with which year.
USERS_2017 = f"""
    instance_id uuid, id uuid NOT NULL, aud varchar(255), role varchar(255), email varchar(255),
    encrypted_password varchar(255), {{confirmed}}, invited_at {TIME}, confirmation_token varchar(255),
    confirmation_sent_at {TIME}, recovery_token varchar(255), recovery_sent_at {TIME},
    {{change_token}} varchar(255), email_change varchar(255), email_change_sent_at {TIME}, last_sign_in_at {TIME},
    raw_app_meta_data jsonb, raw_user_meta_data jsonb, is_super_admin boolean, created_at {TIME}, updated_at {TIME},
    CONSTRAINT users_pkey PRIMARY KEY (id)
"""
PHONES_2021 = f"""
    , phone {{phone}} DEFAULT NULL, phone_confirmed_at {TIME}, phone_change {{phone}} DEFAULT '',
    phone_change_token varchar(255) DEFAULT '', phone_change_sent_at {TIME}, CONSTRAINT users_phone_key UNIQUE (phone)
"""
CONFIRMED = f"confirmed_at {TIME} GENERATED ALWAYS AS (LEAST(email_confirmed_at, phone_confirmed_at)) STORED"
SINCE_2022 = f"""
    , {CONFIRMED}, email_change_token_current varchar(255) DEFAULT '', email_change_confirm_status smallint DEFAULT 0,
    banned_until {TIME}, reauthentication_token varchar(255) DEFAULT '', reauthentication_sent_at {TIME},
    is_sso_user boolean DEFAULT false NOT NULL, deleted_at {TIME}, is_anonymous boolean DEFAULT false NOT NULL,
    CONSTRAINT users_email_change_confirm_status_check
        CHECK (email_change_confirm_status >= 0 AND email_change_confirm_status <= 2)
"""


def users(*, change_token: str = "email_change_token_new", phone: str = "text", newest: bool = True) -> str:
    """GoTrue's table of users: the newest form, or one of the years in which `deleted_at` was there already."""
    columns = USERS_2017.format(confirmed=f"email_confirmed_at {TIME}", change_token=change_token)
    columns += PHONES_2021.format(phone=phone)
    return f"CREATE TABLE auth.users ({columns} {SINCE_2022 if newest else f', deleted_at {TIME}'})"


def first_users() -> str:
    """GoTrue's table of users as its first migration made it: without phones, and confirmed in one way only."""
    columns = USERS_2017.format(confirmed=f"confirmed_at {TIME}", change_token="email_change_token")
    return f"CREATE TABLE auth.users ({columns})"


AUTH = [
    "CREATE TYPE auth.factor_type AS ENUM ('totp', 'webauthn', 'phone')",
    "CREATE TYPE auth.factor_status AS ENUM ('unverified', 'verified')",
    "CREATE TYPE auth.aal_level AS ENUM ('aal1', 'aal2', 'aal3')",
    "CREATE TYPE auth.code_challenge_method AS ENUM ('s256', 'plain')",
    "CREATE TYPE auth.one_time_token_type AS ENUM ('confirmation_token', 'reauthentication_token', 'recovery_token',"
    " 'email_change_token_new', 'email_change_token_current', 'phone_change_token')",
    users(),
    "CREATE UNIQUE INDEX confirmation_token_idx ON auth.users (confirmation_token) WHERE confirmation_token::text !~ '^[0-9 ]*$'",
    "CREATE UNIQUE INDEX email_change_token_new_idx ON auth.users (email_change_token_new)"
    " WHERE email_change_token_new::text !~ '^[0-9 ]*$'",
    "CREATE UNIQUE INDEX users_email_partial_key ON auth.users (email) WHERE is_sso_user = false",
    "CREATE INDEX users_instance_id_email_idx ON auth.users (instance_id, lower(email::text))",
    "CREATE INDEX users_is_anonymous_idx ON auth.users (is_anonymous)",
    "COMMENT ON TABLE auth.users IS 'Auth: Stores user login data within a secure schema.'",
    "CREATE TABLE auth.schema_migrations (version varchar(255) PRIMARY KEY)",
    "CREATE TABLE auth.instances (id uuid PRIMARY KEY, uuid uuid, raw_base_config text, created_at timestamptz, updated_at timestamptz)",
    "CREATE TABLE auth.audit_log_entries (instance_id uuid, id uuid PRIMARY KEY, payload json, created_at timestamptz,"
    " ip_address varchar(64) DEFAULT '' NOT NULL)",
    "CREATE TABLE auth.identities (provider_id text NOT NULL, user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,"
    " identity_data jsonb NOT NULL, provider text NOT NULL, last_sign_in_at timestamptz, created_at timestamptz,"
    " updated_at timestamptz, email text GENERATED ALWAYS AS (lower(identity_data ->> 'email')) STORED,"
    " id uuid DEFAULT gen_random_uuid() PRIMARY KEY, CONSTRAINT identities_provider_id_provider_unique UNIQUE (provider_id, provider))",
    "CREATE INDEX identities_email_idx ON auth.identities (email text_pattern_ops)",
    "CREATE TABLE auth.sessions (id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,"
    " created_at timestamptz, updated_at timestamptz, factor_id uuid, aal auth.aal_level, not_after timestamptz,"
    " refreshed_at timestamp, user_agent text, ip inet, tag text, oauth_client_id uuid, refresh_token_hmac_key text,"
    " refresh_token_counter bigint, scopes text CHECK (char_length(scopes) <= 4096))",
    "CREATE TABLE auth.refresh_tokens (instance_id uuid, id bigserial PRIMARY KEY, token varchar(255) UNIQUE,"
    " user_id varchar(255), revoked boolean, created_at timestamptz, updated_at timestamptz, parent varchar(255),"
    " session_id uuid REFERENCES auth.sessions ON DELETE CASCADE)",
    "CREATE TABLE auth.mfa_factors (id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,"
    " friendly_name text, factor_type auth.factor_type NOT NULL, status auth.factor_status NOT NULL,"
    " created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, secret text, phone text, last_challenged_at timestamptz UNIQUE,"
    " web_authn_credential jsonb, web_authn_aaguid uuid, last_webauthn_challenge_data jsonb)",
    "CREATE TABLE auth.mfa_challenges (id uuid PRIMARY KEY, factor_id uuid NOT NULL REFERENCES auth.mfa_factors ON DELETE CASCADE,"
    " created_at timestamptz NOT NULL, verified_at timestamptz, ip_address inet NOT NULL, otp_code text, web_authn_session_data jsonb)",
    "CREATE TABLE auth.mfa_amr_claims (session_id uuid NOT NULL REFERENCES auth.sessions ON DELETE CASCADE,"
    " created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, authentication_method text NOT NULL, id uuid PRIMARY KEY,"
    " CONSTRAINT mfa_amr_claims_session_id_authentication_method_pkey UNIQUE (session_id, authentication_method))",
    "CREATE TABLE auth.sso_providers (id uuid PRIMARY KEY, resource_id text CHECK (resource_id IS NULL OR char_length(resource_id) > 0),"
    " created_at timestamptz, updated_at timestamptz, disabled boolean)",
    "CREATE UNIQUE INDEX sso_providers_resource_id_idx ON auth.sso_providers (lower(resource_id))",
    "CREATE TABLE auth.sso_domains (id uuid PRIMARY KEY, sso_provider_id uuid NOT NULL REFERENCES auth.sso_providers ON DELETE CASCADE,"
    " domain text NOT NULL CHECK (char_length(domain) > 0), created_at timestamptz, updated_at timestamptz)",
    "CREATE TABLE auth.saml_providers (id uuid PRIMARY KEY, sso_provider_id uuid NOT NULL REFERENCES auth.sso_providers ON DELETE CASCADE,"
    " entity_id text NOT NULL UNIQUE, metadata_xml text NOT NULL, metadata_url text, attribute_mapping jsonb, created_at timestamptz,"
    " updated_at timestamptz, name_id_format text)",
    "CREATE TABLE auth.flow_state (id uuid PRIMARY KEY, user_id uuid, auth_code text NOT NULL,"
    " code_challenge_method auth.code_challenge_method NOT NULL, code_challenge text NOT NULL, provider_type text NOT NULL,"
    " provider_access_token text, provider_refresh_token text, created_at timestamptz, updated_at timestamptz,"
    " authentication_method text NOT NULL, auth_code_issued_at timestamptz)",
    "CREATE TABLE auth.saml_relay_states (id uuid PRIMARY KEY, sso_provider_id uuid NOT NULL REFERENCES auth.sso_providers ON DELETE CASCADE,"
    " request_id text NOT NULL, for_email text, redirect_to text, created_at timestamptz, updated_at timestamptz,"
    " flow_state_id uuid REFERENCES auth.flow_state ON DELETE CASCADE)",
    "CREATE TABLE auth.one_time_tokens (id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,"
    " token_type auth.one_time_token_type NOT NULL, token_hash text NOT NULL CHECK (char_length(token_hash) > 0),"
    " relates_to text NOT NULL, created_at timestamp DEFAULT now() NOT NULL, updated_at timestamp DEFAULT now() NOT NULL)",
    "CREATE INDEX one_time_tokens_relates_to_hash_idx ON auth.one_time_tokens USING hash (relates_to)",
    "CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS"
    " $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$",
    "ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE auth.sessions ENABLE ROW LEVEL SECURITY",
]

STORAGE = [
    "CREATE TYPE storage.buckettype AS ENUM ('STANDARD', 'ANALYTICS', 'VECTOR')",
    "CREATE TABLE storage.migrations (id integer PRIMARY KEY, name varchar(100) NOT NULL UNIQUE, hash varchar(40) NOT NULL,"
    " executed_at timestamp DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE storage.buckets (id text NOT NULL, name text NOT NULL, owner uuid, created_at timestamptz DEFAULT now(),"
    " updated_at timestamptz DEFAULT now(), public boolean DEFAULT false, avif_autodetection boolean DEFAULT false,"
    " file_size_limit bigint, allowed_mime_types text[], owner_id text,"
    " type storage.buckettype DEFAULT 'STANDARD' NOT NULL, CONSTRAINT buckets_pkey PRIMARY KEY (id))",
    "CREATE UNIQUE INDEX bname ON storage.buckets (name)",
    "COMMENT ON COLUMN storage.buckets.owner IS 'Field is deprecated, use owner_id instead'",
    "CREATE TABLE storage.objects (id uuid DEFAULT gen_random_uuid() NOT NULL, bucket_id text, name text, owner uuid,"
    " created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(), last_accessed_at timestamptz DEFAULT now(),"
    " metadata jsonb, path_tokens text[] GENERATED ALWAYS AS (string_to_array(name, '/')) STORED, version text, owner_id text,"
    " user_metadata jsonb, level integer, CONSTRAINT objects_pkey PRIMARY KEY (id),"
    ' CONSTRAINT "objects_bucketId_fkey" FOREIGN KEY (bucket_id) REFERENCES storage.buckets)',
    "CREATE UNIQUE INDEX bucketid_objname ON storage.objects (bucket_id, name)",
    "CREATE INDEX name_prefix_search ON storage.objects (name text_pattern_ops)",
    'CREATE INDEX idx_objects_bucket_id_name ON storage.objects (bucket_id, name COLLATE "C")',
    'CREATE TABLE storage.prefixes (bucket_id text REFERENCES storage.buckets, name text COLLATE "C" NOT NULL,'
    " level integer NOT NULL, created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(),"
    " CONSTRAINT prefixes_pkey PRIMARY KEY (bucket_id, level, name))",
    "CREATE TABLE storage.s3_multipart_uploads (id text PRIMARY KEY, in_progress_size bigint DEFAULT 0 NOT NULL,"
    ' upload_signature text NOT NULL, bucket_id text NOT NULL REFERENCES storage.buckets, key text COLLATE "C" NOT NULL,'
    " version text NOT NULL, owner_id text, created_at timestamptz DEFAULT now() NOT NULL, user_metadata jsonb)",
    "CREATE TABLE storage.s3_multipart_uploads_parts (id uuid DEFAULT gen_random_uuid() PRIMARY KEY,"
    " upload_id text NOT NULL REFERENCES storage.s3_multipart_uploads ON DELETE CASCADE, size bigint DEFAULT 0 NOT NULL,"
    ' part_number integer NOT NULL, bucket_id text NOT NULL REFERENCES storage.buckets, key text COLLATE "C" NOT NULL,'
    " etag text NOT NULL, owner_id text, version text NOT NULL, created_at timestamptz DEFAULT now() NOT NULL)",
    "CREATE TABLE storage.buckets_analytics (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, name text NOT NULL,"
    " type storage.buckettype DEFAULT 'ANALYTICS' NOT NULL, format text DEFAULT 'ICEBERG' NOT NULL,"
    " created_at timestamptz DEFAULT now() NOT NULL, updated_at timestamptz DEFAULT now() NOT NULL, deleted_at timestamptz)",
    "CREATE TABLE storage.buckets_vectors (id text PRIMARY KEY, type storage.buckettype DEFAULT 'VECTOR' NOT NULL,"
    " created_at timestamptz DEFAULT now() NOT NULL, updated_at timestamptz DEFAULT now() NOT NULL)",
    "CREATE TABLE storage.vector_indexes (id text DEFAULT gen_random_uuid() PRIMARY KEY, name text NOT NULL,"
    " bucket_id text NOT NULL REFERENCES storage.buckets_vectors, data_type text NOT NULL, dimension integer NOT NULL,"
    " distance_metric text NOT NULL, metadata_configuration jsonb, created_at timestamptz DEFAULT now() NOT NULL,"
    " updated_at timestamptz DEFAULT now() NOT NULL)",
    "CREATE FUNCTION storage.update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$",
    "CREATE TRIGGER update_objects_updated_at BEFORE UPDATE ON storage.objects FOR EACH ROW"
    " EXECUTE FUNCTION storage.update_updated_at_column()",
    "ALTER TABLE storage.buckets ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY",
    'CREATE POLICY "anyone may read" ON storage.objects FOR SELECT USING (true)',
]
