"""The composition root of the api: from its settings to its listening socket, and back.

The one rule: it serves from the first moment, whatever is not there yet, and says what is lacking.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from datetime import timedelta
from importlib import metadata
from typing import Final

import structlog
from litestar.handlers import HTTPRouteHandler

from schemas import subjects
from schemas.errors import DisconnectedError, UnavailableError
from schemas.intake import Limits
from services import clock, process, supervision
from services.api import lag, openapi, server
from services.api.actions import ActionRoutes
from services.api.admission import Admission
from services.api.app import assemble
from services.api.artifacts import ArtifactRoutes
from services.api.backends import BackendRoutes
from services.api.batches import BatchRoutes
from services.api.cancelling import Canceller
from services.api.cancelling_many import ManyCanceller
from services.api.erasing import Eraser, ErasureRoutes
from services.api.fleet import FleetRoutes
from services.api.health import HealthRoutes
from services.api.hub import Hub
from services.api.known_fleet import KnownFleet
from services.api.known_models import KnownModels
from services.api.lanes import Lanes
from services.api.many import Selection
from services.api.marks import Marks
from services.api.moments import Moments
from services.api.onlooking import Onlooking
from services.api.origins import Origins
from services.api.outlook import Foresight
from services.api.past import Past
from services.api.pausing import PauseRoutes
from services.api.placing import Placing
from services.api.previews import PreviewRoutes
from services.api.queries import ReadModel
from services.api.reads import Reads
from services.api.recent import Recent
from services.api.redriving import Redriver
from services.api.registrar import Registrar
from services.api.resumable import ResumableUploads
from services.api.shown_batches import Batches
from services.api.silence import Silence
from services.api.sse import EventRoutes
from services.api.storage import Storage
from services.api.submissions import SubmissionRoutes
from services.api.submit import Submitter
from services.api.sweeper import Sweeper
from services.api.tasks import TaskRoutes
from services.api.upload_routes import UploadRoutes
from services.api.uploads import Uploads
from services.api.upto import UpTo
from services.artifacts import ArtifactStore
from services.bus.connection import Bus, Msg
from services.bus.previews import Previews
from services.bus.tasklog import TaskLog
from services.leases import Leases
from services.settings import Settings

log = structlog.get_logger()

_DAY_S: Final = 86_400
_HINT_PAUSE_S: Final = 0.25

Ready = Callable[[str], None]


class Api:
    """Everything of one api process, put together and not yet running."""

    def __init__(self, settings: Settings) -> None:
        instance = clock.new_name()
        self._settings = settings
        self._suspected = asyncio.Event()
        self.bus = Bus(settings.bus_url, f"taskfold api {instance[:8]}")
        self.model = ReadModel(settings.readmodel_path, self._suspected.set)
        self.past = Past(self.model)
        self.hub = Hub(self.model, heartbeat_s=settings.sse_heartbeat_s)
        self.models = KnownModels(self.bus, instance)
        self.fleet = KnownFleet(self.bus, instance)
        self.registrar = Registrar(self.bus, self.models)
        self.storage = Storage(self.bus)
        self.leases = Leases(self.bus, f"api-{instance}", settings.lease_s)
        self.tasklog = TaskLog(self.bus, "taskfold/api", clock.now, clock.new_event_id)
        self.recent = Recent(asyncio.get_running_loop().time)
        self.foresight = Foresight(
            self.model,
            Moments(self.models, self.fleet, self.leases, settings),
            self.leases,
            now=clock.now,
            clock=asyncio.get_running_loop().time,
            onlooking=Onlooking(self.model, settings),
        )
        self.hub.tell(self.foresight.happened)
        self.batches = Batches(self.model, self.tasklog, self.hub)
        self.store = ArtifactStore(self.bus)
        self.marks = Marks(self.bus, self.store, settings.keeps_uploads)
        self.resumable = ResumableUploads(
            self.bus,
            self.store,
            self.marks,
            clock.now,
            max_mib=settings.max_upload_mib,
            keep=settings.keeps_uploads,
            idle=timedelta(seconds=settings.upload_idle_s),
        )
        silence = Silence(self.bus, self.registrar, self.models, self.leases, clock.now)
        self.eraser = Eraser(
            self.bus,
            self.tasklog,
            self.model,
            self.store,
            self.recent,
            clock.now,
            settings.submit_timeout_s,
        )
        self.sweeper = Sweeper(
            self.leases,
            self.tasklog,
            self.model,
            (silence.end, self.eraser.finish),
            clock.now,
            settings.sweep_interval_s,
        )

    def handlers(self) -> list[HTTPRouteHandler]:
        settings, store = self._settings, self.store
        reads = Reads(self.model, self.tasklog, self.hub, self.recent, self.foresight)
        canceller = Canceller(self.tasklog, self.model, self.recent, clock.now, settings.submit_timeout_s)
        events = EventRoutes(
            self.hub,
            self.model,
            reads,
            self.batches,
            lambda: lag.last_stored(self.bus),
            buffer_kib=settings.sse_buffer_kib,
            coalesce_s=settings.sse_coalesce_s,
        )
        submitter, origins = self._submitter(), Origins(self.model, self.tasklog)
        submissions = SubmissionRoutes(
            submitter,
            Uploads(store, clock.now, clock.new_name, settings.max_upload_mib, settings.keeps_uploads),
            reads,
            origins,
            clock.new_task_id,
            trust_tenant=settings.trust_tenant_header,
            max_upload_mib=settings.max_upload_mib,
        )
        selection = Selection(self.bus, self.model)
        many_canceller = ManyCanceller(selection, canceller)
        actions = ActionRoutes(many_canceller, Redriver(selection, origins, submitter))
        batches = BatchRoutes(
            submitter,
            self.batches,
            many_canceller,
            clock.new_batch_id,
            trust_tenant=settings.trust_tenant_header,
        )
        public = [
            *submissions.handlers(),
            *batches.handlers(),
            *actions.handlers(),
            *TaskRoutes(reads, self.model, canceller, self.past).handlers(),
            *PreviewRoutes(Previews(self.bus), reads).handlers(),
            *events.handlers(),
            *ErasureRoutes(self.eraser).handlers(),
            *ArtifactRoutes(store, reads).handlers(),
            *UploadRoutes(
                self.resumable, submitter.ready, timedelta(days=settings.max_age_days)
            ).handlers(),
            *self._fleet_handlers(),
        ]
        schema = openapi.describe(public, metadata.version("taskfold"))
        return [*public, *HealthRoutes(self.bus, self.model, lambda: schema).handlers()]

    def _fleet_handlers(self) -> list[HTTPRouteHandler]:
        shown = FleetRoutes(
            self.bus, self.model, self.models, self.fleet, self.leases, self.foresight, self.past
        )
        changed = BackendRoutes(self.registrar, self.models, self.leases, shown.shown, clock.now)
        pauses = PauseRoutes(self.bus, self.fleet, clock.now)
        return [*shown.handlers(), *changed.handlers(), *pauses.handlers()]

    def _submitter(self) -> Submitter:
        settings = self._settings
        admission = Admission(settings.queue_limit, settings.tenant_queue_limit)
        return Submitter(
            bus=self.bus,
            tasklog=self.tasklog,
            model=self.model,
            store=self.store,
            marks=self.marks,
            models=self.models,
            placing=Placing(
                model=self.model,
                admission=admission,
                lanes=Lanes(self.bus, settings.lanes),
                foresight=self.foresight,
                last_waiting={},
            ),
            recent=self.recent,
            limits=Limits(
                start_deadline_s=settings.start_deadline_s,
                deadline_s=settings.deadline_s,
                run_timeout_s=settings.run_timeout_s,
                max_attempts=settings.max_attempts,
                horizon_s=(settings.max_age_days - 1) * _DAY_S,
            ),
            patience_s=settings.submit_timeout_s,
            storage_full=lambda: self.storage.full,
            now=clock.now,
            new_seed=clock.new_seed,
        )

    def jobs(self) -> list[Coroutine[None, None, None]]:
        """Give what runs beside the server, for as long as it does."""
        return [
            self._connect(),
            self._report_suspicion(),
            self.hub.run(),
            self.hub.heartbeat(),
            self.models.follow(),
            self.fleet.follow(),
            self.foresight.run(),
            self.storage.watch(),
            self.resumable.run(),
            self.leases.follow(),
            self.leases.keep(),
            self.sweeper.run(),
        ]

    async def _connect(self) -> None:
        def hint(_: Msg) -> None:
            self.hub.hint()

        await self.bus.connect()
        while True:
            try:
                await self.bus.subscribe(subjects.APPLIED, hint)
            except DisconnectedError:
                await asyncio.sleep(_HINT_PAUSE_S)
            else:
                return

    async def _report_suspicion(self) -> None:
        """Tell the projector that its file cannot be read, now and then while that is so."""
        while True:
            await self._suspected.wait()
            self._suspected.clear()
            with contextlib.suppress(UnavailableError):
                await self.bus.send(subjects.SUSPECT)
            await asyncio.sleep(_HINT_PAUSE_S)

    async def close(self) -> None:
        await self.sweeper.resign()
        await self.model.close()
        await self.bus.close()


async def serve(settings: Settings, stop: asyncio.Event, ready: Ready | None = None) -> None:
    """Run the api until ``stop``; ``ready`` is told its url. StartError when the port cannot be had."""
    with contextlib.closing(server.listen(settings.api_host, settings.api_port)) as bound:
        api = Api(settings)
        http = server.Server(assemble(api.handlers(), UpTo(api.model)), api.hub.close)
        server.quiet_cut_offs()
        url = server.url_of(bound)

        async def end() -> None:
            await stop.wait()
            http.should_exit = True

        async def announce() -> None:
            process.settle_garbage()
            log.info("api.listens", url=url)
            supervision.ready(f"listens on {url}")
            if ready is not None:
                ready(url)

        try:
            async with process.background(end(), announce(), *api.jobs()):
                await http.serve(sockets=[bound])
        finally:
            await api.close()
