#!/bin/sh
# Run once, when the database is made: the role of the application, and pg_cron. Its rights come from `alfred-db grants`.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$APP_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE app LOGIN PASSWORD :'password';
CREATE EXTENSION IF NOT EXISTS pg_cron;
SQL
