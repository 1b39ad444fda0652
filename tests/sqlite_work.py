"""What a call costs SQLite, without a clock: does it grow with what is there?"""

from collections.abc import Callable

from rag.database import Database


def work_of(database: Database, call: Callable[[], object]) -> int:
    """Thousands of instructions that SQLite carries out for a call, on its only connection."""
    counted = [0]

    def count() -> int:
        counted[0] += 1
        return 0

    with database.read() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(count, 1000)
    call()
    driver.set_progress_handler(None, 0)
    return counted[0]
