"""How the statements of the log run in PostgreSQL."""

from __future__ import annotations

from services.logger.postgres.connecting import PostgresDatabase

_STATEMENT = "SELECT state FROM blasts AS planned WHERE blast_id = ?"
_PLANNED = """
SELECT generic_plans + custom_plans FROM pg_prepared_statements WHERE statement LIKE 'SELECT state FROM blasts AS pla%'
"""


def test_a_statement_is_planned_once(postgres: PostgresDatabase) -> None:
    """Planning over all days takes longer than most queries: the same prepared statement runs each time."""
    for blast_id in ("a", "b", "c"):
        postgres.execute(_STATEMENT, (blast_id,))
    assert postgres.run(_PLANNED).fetchall() == [(3,)]
