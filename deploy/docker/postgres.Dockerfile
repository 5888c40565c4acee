# PostgreSQL with pgvector and pg_cron: the image of pgvector has no pg_cron.
ARG PG=17
FROM pgvector/pgvector:pg${PG}
ARG PG
RUN apt-get update && apt-get install -y --no-install-recommends "postgresql-${PG}-cron" && rm -rf /var/lib/apt/lists/*
COPY --chmod=755 roles.sh /docker-entrypoint-initdb.d/roles.sh
CMD ["postgres", "-c", "shared_preload_libraries=pg_cron", "-c", "cron.database_name=platform"]
