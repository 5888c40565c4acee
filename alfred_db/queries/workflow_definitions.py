"""Statements about the definitions of workflows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Select,
    any_,
    bindparam,
    case,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from ..models import Workflow, WorkflowStatus
from ..models.base import table_of
from ..types import Text
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import jsonb, materialized

_workflows = table_of(Workflow).c


def define(
    name: str, definition: str | None, *, version: int | None, created_by: str | None
) -> ReturningInsert[Workflow]:
    """Insert a version of a workflow, unless it exists; None is the one after the last."""
    values: dict[str, ColumnElement[Any]] = {
        "name": literal(name, Text),
        "definition": jsonb(definition),
        "created_by": literal(created_by, Text),
    }
    if version is None:
        last = func.coalesce(func.max(Workflow.version), 0) + 1
        following = materialized(select(last.label("version")).where(Workflow.name == name), "following")
        rows = select(following.c.version, *values.values())
        statement = insert(Workflow).from_select(["version", *values], rows)
    else:
        statement = insert(Workflow).values(version=literal(version, Integer), **values)
    return statement.on_conflict_do_nothing(index_elements=[Workflow.name, Workflow.version]).returning(
        Workflow
    )


def version(name: str, number: int, definition: str | None) -> Select[Workflow, bool]:
    """Select a version of a workflow, and whether it has this definition."""
    same = Workflow.definition == jsonb(definition)
    return select(Workflow, same).where(Workflow.name == name, Workflow.version == number)


def get(workflow_id: int) -> Select[Workflow]:
    """Select a workflow version by its id."""
    return select(Workflow).where(Workflow.id == workflow_id)


def versions(name: str) -> Select[Workflow]:
    """Select all versions of a workflow, newest first."""
    return select(Workflow).where(Workflow.name == name).order_by(Workflow.version.desc(), Workflow.id)


@driver_statement
def stored() -> Select[int, str, int | None, str, dict[str, Any]]:
    """Select the id, name, version, status and definition of all versions of the workflows `names`, newest first."""
    named = _workflows.name == any_(bindparam("names", type_=ARRAY(Text)))
    columns = _workflows.id, _workflows.name, _workflows.version, _workflows.status, _workflows.definition
    return select(*columns).where(named).order_by(_workflows.version.desc(), _workflows.id)


def siblings(workflow_id: int) -> Select[str]:
    """Lock all versions of the workflow of a version, in the order of their ids; select its name for each."""
    own = aliased(Workflow)
    name = select(own.name).where(own.id == workflow_id).scalar_subquery()
    return (
        select(Workflow.name)
        .where(Workflow.name == name)
        .order_by(Workflow.id)
        .with_for_update(key_share=True)
    )


def activate(workflow_id: int, name: str) -> ReturningUpdate[int]:
    """Make a version the active one, and archive the version that was."""
    this = Workflow.id == workflow_id
    status = case((this, literal(WorkflowStatus.ACTIVE, Text)), else_=literal(WorkflowStatus.ARCHIVED, Text))
    return (
        update(Workflow)
        .where(Workflow.name == name, or_(this, Workflow.status == WorkflowStatus.ACTIVE))
        .values(status=status)
        .returning(Workflow.id)
    )


def archive(workflow_id: int) -> ReturningUpdate[Workflow]:
    """Archive a version."""
    return (
        update(Workflow)
        .where(Workflow.id == workflow_id)
        .values(status=WorkflowStatus.ARCHIVED)
        .returning(Workflow)
    )
