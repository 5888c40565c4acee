# Amazon RDS for PostgreSQL: vector needs no parameter. pg_cron does, and a restart.
resource "aws_db_parameter_group" "alfred_db" {
  name   = "alfred-db"
  family = "postgres17"

  parameter {
    name         = "shared_preload_libraries"
    value        = "pg_stat_statements,pg_cron"
    apply_method = "pending-reboot"
  }

  parameter {
    name         = "cron.database_name"
    value        = "platform"
    apply_method = "pending-reboot"
  }

  # If the group limits the extensions, it has to name them.
  parameter {
    name  = "rds.allowed_extensions"
    value = "vector,pg_trgm,pgcrypto,uuid-ossp,pg_stat_statements,pg_cron"
  }
}
