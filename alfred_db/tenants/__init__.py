"""The tenants of a database: create, list, upgrade and drop them, many at a time.

db.tenants.create("acme", roles={"app": "acme_app"})
for tenant in db.tenants.list(): print(tenant.name, tenant.revision, tenant.size)
report = db.tenants.upgrade(parallel=4, progress=print)
db.tenants.drop("acme")
"""

from __future__ import annotations

from .catalog import Tenant, require_tenant
from .directory import TenantMoveReport, server_of
from .managing import AsyncTenants, Tenants
from .upgrading import TenantOutcome, TenantReport

__all__ = [
    "AsyncTenants",
    "Tenant",
    "TenantMoveReport",
    "TenantOutcome",
    "TenantReport",
    "Tenants",
    "require_tenant",
    "server_of",
]
