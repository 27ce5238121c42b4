"""The web framework alone, as it starts: FastAPI with one route, over uvicorn.

python -m app.bench.bare_start PORT
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI


def main() -> None:
    """Answers ``GET /readyz`` until it is told to stop."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)


if __name__ == "__main__":
    main()
