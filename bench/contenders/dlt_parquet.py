"""dlt from a view of PostgreSQL to Parquet files: its sql_database source into its filesystem destination.

    python bench/contenders/dlt_parquet.py postgresql://… FOLDER sqlalchemy|pyarrow

Pinned: dlt 1.31.0, and the settings below, with pieces of 50,000 rows.  `sqlalchemy` is the backend it takes when none
is named, `pyarrow` the one its documentation gives for speed.  It runs under the Python of an environment of its own
(`bench/exports.py --dlt`), and shares no code with the product.
"""

import os
import sys

PINNED = "1.31.0"
ROWS = 50_000
NAME = "exports_bench"


def main() -> None:
    """Load the view `v_transaction` once, from nothing."""
    url, folder, backend = sys.argv[1:]
    os.environ |= {
        "DLT_DATA_DIR": f"{folder}/.dlt",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "ERROR",
        "NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION": "true",
    }
    import dlt
    from dlt.sources.sql_database import sql_table

    assert dlt.__version__ == PINNED, f"dlt {PINNED} is what the ratio is of, and not {dlt.__version__}"
    pipeline = dlt.pipeline(
        NAME, destination=dlt.destinations.filesystem(bucket_url=f"file://{folder}/files"), dataset_name="exports"
    )
    table = sql_table(
        url.replace("postgresql://", "postgresql+psycopg2://"),
        table="v_transaction",
        backend=backend,
        chunk_size=ROWS,
        reflection_level="full",
    )
    pipeline.run(table, loader_file_format="parquet", write_disposition="replace").raise_on_failed_jobs()


if __name__ == "__main__":
    main()
