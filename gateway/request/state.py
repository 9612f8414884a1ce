"""What the pipeline works with: the parts of a running gateway, the models it serves, and the policy in force.

`Gateway` lives as long as the process. `Active` is one compiled version of the policy; a reload builds a new one beside
it and swaps the reference, so a request sees a single policy from its first header to its record. `Served` is one model
version with its engine and queue; it outlives policy reloads.

Nothing here does IO or decides anything; `gateway.host.app` puts these together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.auth.isolation import NOBODY, Isolations
from gateway.auth.principal import Presented, Principal
from gateway.request.elsewhere import Elsewhere
from gateway.request.sums import Sums

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from defenses.budget.calibration import Calibrated
    from defenses.budget.hardening import HardeningRule
    from defenses.budget.output import OutputRule
    from defenses.budget.policy import Mode, ScreenRule
    from defenses.budget.steps import Step
    from gateway import errors
    from gateway.admission.budget import Budget
    from gateway.admission.concurrency import Concurrency
    from gateway.admission.limiter import Limiter
    from gateway.admission.shared import SharedLimiter
    from gateway.auth.chain import Chain
    from gateway.auth.rights import Rights
    from gateway.codec import CodecLimits, InferRequest
    from gateway.host.unprotected import Anybody, Forgetful, Unlimited
    from gateway.models.host_link import HostLink
    from gateway.models.rotation import Rotations
    from gateway.models.split import Split
    from gateway.models.statistics import ModelCounters, ServiceTime
    from gateway.request.cache import AnswerCache
    from gateway.request.capture import Room, Vault
    from gateway.request.comparison import Comparer
    from gateway.request.elsewhere import Level
    from gateway.request.labels.answers import Answers, FeedbackRules, Seen
    from gateway.request.metering import BudgetRules, Charge, Metering
    from gateway.request.record import Record, Site
    from gateway.request.tally import Tally
    from gateway.request.watching import Watched, Watching
    from ops.audit.store.client import AuditClient
    from ops.audit.store.ring import InflightRing
    from ops.process.logging import Log
    from serving.bundles.bundle import Bundle
    from serving.bundles.manifest import TensorSpec
    from serving.engines.engine import Engine
    from serving.queue.batcher import Batcher

ACKNOWLEDGE_NS = 30_000_000_000  # of a gateway that nobody configured, such as a control process
PUBLIC = Principal(
    name="(public)",
    tenant="(public)",
    priority_class="(public)",
    lane=3,
    roles=frozenset(),
    credential="(public)",
    method="none",
    expires_ns=None,
)


@dataclass(frozen=True, slots=True)
class Offload:
    """The model of batches of `rows_min` rows and more runs in a thread, while the event loop takes in requests.

    `resume` has the loop go on with a batch; called from that thread.
    """

    rows_min: int
    resume: Callable[[Sequence[Item], Callable[[], None]], object]


@dataclass(slots=True)
class Served:
    """One model version of this process. `facts_json` is its part of every record.

    `offload` is there where batches run on the event loop, else they run in `pool` as a whole. One that is `unloaded`
    is out of service: it has no queue, and its engine is never ready.
    """

    bundle: Bundle
    engine: Engine
    facts_json: str
    service_time: ServiceTime
    counters: ModelCounters
    unloaded: bool = False
    offload: Offload | None = None
    watching: Watching | None = None
    metering: Metering | None = None
    batcher: Batcher[Item] = field(init=False)
    pool: ThreadPoolExecutor = field(init=False)


@dataclass(frozen=True, slots=True)
class ScreenInForce:
    """A calibrated screen with what the record says of it; the digest is taken once."""

    calibrated: Calibrated
    digest: str
    technique: str


@dataclass(frozen=True, slots=True, eq=False)
class Mirror:
    """What is run beside a version, on this share of its batches, to compare. Its answers go nowhere.

    `prediction` is the output of both that is compared.
    """

    rules: ModelRules
    rate: float
    prediction: str


@dataclass(frozen=True, slots=True)
class WatchRules:
    """What becomes of accounts whose questions look like an attack; `steps` by priority class where it has its own.

    `consistent`: what is close to an earlier question gets its answer from the beginning; None: not even recorded.
    """

    mode: Mode
    flag_alpha: float
    consistent: Mode | None
    steps: tuple[Step, ...]
    by_class: Mapping[str, tuple[Step, ...]]

    def steps_of(self, priority_class: str) -> tuple[Step, ...]:
        """Return the steps of an account of this class."""
        return self.by_class.get(priority_class, self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class ModelRules:
    """What the policy says about one model version. `prediction` is the output that is hardened, if there is one.

    `reserved` holds the roles that may have an output which not everybody may. `on_request` are outputs that nobody
    gets who does not ask for them by name.
    """

    served: Served
    outputs: tuple[TensorSpec, ...]
    datatypes: Mapping[str, str]
    cost_per_row: int
    screens: Mapping[str, ScreenInForce]
    screen_rules: Mapping[str, ScreenRule]
    prediction: str | None
    hardening: HardeningRule | None
    harden_flagged: bool
    reveal_verdict: bool
    capture: str
    capture_rate: float
    mirror: Mirror | None = None
    reserved: Mapping[str, frozenset[str]] = field(default_factory=dict)
    on_request: frozenset[str] = frozenset()
    feedback: FeedbackRules | None = None
    watch: WatchRules | None = None
    budget: BudgetRules | None = None
    output: OutputRule | None = None
    rotations: Rotations | None = None
    acknowledge: Level = "local"

    def outputs_for(self, roles: frozenset[str]) -> tuple[TensorSpec, ...]:
        """Return the outputs that a caller with these roles may have; at least one."""
        if not self.reserved:
            return self.outputs
        return tuple(spec for spec in self.outputs if not roles.isdisjoint(self.reserved.get(spec.name, roles)))

    def given(self, outputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        """Return those of a caller's outputs that it gets without asking for any in particular; at least one."""
        if not self.on_request:
            return outputs
        return tuple(spec for spec in outputs if spec.name not in self.on_request)


@dataclass(frozen=True, slots=True)
class Active:
    """One compiled version of the policy. Immutable; requests hold on to the one they began with."""

    digest: str
    revision: int
    chain: Chain | Anybody
    rights: Rights
    public_methods: frozenset[str]
    budgets: Mapping[str, Budget]
    models: Mapping[tuple[str, str], ModelRules]
    default_versions: Mapping[str, str]
    tenant_capture: Mapping[str, str]
    splits: Mapping[str, Split]
    feedback_keys: Mapping[str, frozenset[bytes]] = field(default_factory=dict)

    def authenticate(self, presented: Presented, right: str, now_ns: int) -> Principal:
        """Return who is calling; a method that the policy made public may be called by nobody in particular."""
        if right in self.public_methods and presented == NOTHING:
            return PUBLIC
        return self.chain.authenticate(presented, now_ns)


NOTHING = Presented()


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client once its record is durable. `verdict` only where the policy reveals it."""

    body: bytes
    decision: str = "allow"
    verdict: str | None = None


@dataclass(slots=True)
class Item:
    """A decoded request that waits for its batch; the batch writes the outcome.

    `cache_key` is there where its answer may be given again, `seen` where labels of it may come, `charge` once the
    budget was charged for it, `watched` once the watch has looked at it: what it said, and the request's place there.
    """

    record: Record
    request: InferRequest
    rules: ModelRules
    queued_ns: int
    body: bytes
    capture: str
    answer: asyncio.Future[Answer]
    outcome: Answer | errors.Refusal | None = None
    cache_key: bytes | None = None
    seen: Seen | None = None
    charge: Charge | None = None
    watched: tuple[Watched, int] | None = None


@dataclass(slots=True)
class Gateway:
    """The parts of one gateway process. `active`, `served`, `isolations` and `draining` are all that is ever replaced.

    `host` is how a worker asks its supervisor; who has none cannot load or unload models.
    """

    site: Site
    active: Active
    served: Mapping[tuple[str, str], Served]
    limiter: Limiter
    concurrency: Concurrency | Unlimited
    codec_limits: CodecLimits
    metadata_bytes_max: int
    sink: AuditClient | Forgetful
    ring: InflightRing
    tally: Tally
    comparer: Comparer
    log: Log
    loop: asyncio.AbstractEventLoop
    vault: Vault
    room: Room
    auth_json: Callable[[Principal], str]
    new_id: Callable[[], bytes]
    clock_ns: Callable[[], int]
    wall_ns: Callable[[], int]
    log_level: str = "info"
    shared: SharedLimiter | None = None
    host: HostLink | None = None
    cache: AnswerCache | None = None
    answers: Answers | None = None
    isolations: Isolations = NOBODY
    draining: bool = False
    elsewhere: Elsewhere = field(default_factory=lambda: Elsewhere(ACKNOWLEDGE_NS))
    sums: Sums = field(default_factory=Sums)
    streams: set[asyncio.Queue[asyncio.Task[bytes] | None]] = field(default_factory=set)
