"""The first screen: causes, five questions, 24 hours."""

from fastapi import Response

from syncworker.store.unit_of_work import UnitOfWork
from syncworker.web.dashboard.door import Visit
from syncworker.web.dashboard.frame import Frame


class Overview:
    """The page."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def show(self, visit: Visit, unit: UnitOfWork) -> Response:
        """The first screen."""
        return await self._frame.page(visit, unit, "overview.html", here="overview")
