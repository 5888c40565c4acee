# Azure Database for PostgreSQL, flexible server: an extension has to be allowed before it can be created.
resource "azurerm_postgresql_flexible_server_configuration" "extensions" {
  server_id = azurerm_postgresql_flexible_server.platform.id
  name      = "azure.extensions"
  value     = "VECTOR,PG_TRGM,PGCRYPTO,UUID-OSSP,PG_STAT_STATEMENTS,PG_CRON"
}

# For pg_cron only; the server restarts.
resource "azurerm_postgresql_flexible_server_configuration" "preload" {
  server_id = azurerm_postgresql_flexible_server.platform.id
  name      = "shared_preload_libraries"
  value     = "pg_cron,pg_stat_statements"
}

resource "azurerm_postgresql_flexible_server_configuration" "cron" {
  server_id = azurerm_postgresql_flexible_server.platform.id
  name      = "cron.database_name"
  value     = "platform"
}
