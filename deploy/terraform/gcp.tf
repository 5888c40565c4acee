# Google Cloud SQL for PostgreSQL: vector needs no flag. pg_cron does, and a restart.
resource "google_sql_database_instance" "platform" {
  name             = "platform"
  database_version = "POSTGRES_17"
  region           = var.region

  settings {
    tier = var.tier

    database_flags {
      name  = "cloudsql.enable_pg_cron"
      value = "on"
    }

    database_flags {
      name  = "cron.database_name"
      value = "platform"
    }
  }
}

variable "region" { type = string }
variable "tier" { type = string }
