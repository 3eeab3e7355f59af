"""The hospital's Flower ClientApp: checks a request, runs the installed code on the site's data, answers or refuses.

The site's own gate comes first (client/gate/gates.py). Nothing private travels: whatever fails, the coordinator gets
a fixed code (privacy/wire/messages.py). The details go to the logger ``fedkt3d.site`` alone: it passes nothing on and
prints nothing until the site attaches a handler of its own. Torch is imported when a model is first needed, so that the
process starts at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.data.left_out import UnreadableCasesError, leave_out, without
from client.gate.gates import Gate, HospitalGate, SimulatedGate
from client.gate.secure_site import SecureSite
from client.gate.spending import account_for
from client.site.config import SiteConfig
from client.training.installed import InstalledTraining, Training
from privacy.dp.encoding import Ring
from privacy.dp.terms import NOISE_SHARED, SUMMED
from privacy.secagg.errors import SecAggError
from privacy.wire.heads import OLDEST_SCHEMA
from privacy.wire.messages import (
    MESSAGE_TYPES,
    EvaluateTask,
    Refusal,
    Reply,
    Request,
    StatisticsTask,
    TrainTask,
    parse_request,
    reply,
)
from privacy.wire.secure_records import SECURE_KINDS
from shared_model.core.errors import InputError, PolicyError
from shared_model.core.fields import MessageError
from shared_model.core.vector import Vector

NODE_CONFIG_KEY = "site-config"
# The site's folder: its policy and plan. Set by the site's executor; a simulation has neither.
HOME_KEY = "home"
# The folder of a simulated site's privacy ledger; a real one's is in its home.
LEDGER_KEY = "ledger"
# Which start of the site's node this is: 32 hex digits, set by the site's executor.
INSTANCE_KEY = "instance"
# The name by which a simulated site is enrolled for secure aggregation. A real site has its own identity key.
SECURE_KEY = "secure"
SITE_LOG = logging.getLogger("fedkt3d.site")
SITE_LOG.propagate = False
SITE_LOG.addHandler(logging.NullHandler())
_LOG = logging.getLogger("fedkt3d.client")


class _RefusedError(Exception):
    """Ends the handling of a request with a code of ours; the cause is logged at the site."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class _RequestHead:
    """What we know of the request so far, for the head of a refusal."""

    kind: str
    site: str = ""
    run_id: str = ""
    round: int = 0
    schema: int = OLDEST_SCHEMA
    instance: str = ""


def client_app(training: Training) -> ClientApp:
    """Make a ClientApp that answers every kind of request with ``training``; safe in several threads at once."""
    flower = ClientApp()
    for name, register in (("query", flower.query()), ("train", flower.train()), ("evaluate", flower.evaluate())):
        register(partial(_handle, tuple(k for k, t in MESSAGE_TYPES.items() if t == name), training))
    return flower


def _handle(kinds: Sequence[str], training: Training, message: Message, context: Context) -> Message:
    """Answer one message of one of ``kinds``; every failure becomes a refusal."""
    known = _RequestHead(kind=kinds[0])
    try:
        content = _answer(kinds, training, message.content, context, known)
    # SystemExit too: a library that calls sys.exit must not end the site's process.
    except (Exception, SystemExit) as error:
        kind = known.kind
        refusal = _refusal(error, _FAILED[kind])
        _LOG.warning("%s of round %d refused: %s (%s)", kind, known.round, refusal.code, type(error).__name__)
        SITE_LOG.error("%s of round %d refused: %s", kind, known.round, refusal.code, exc_info=error)
        complaint = error.complaint if isinstance(error, SecAggError) else None
        told = Reply(kind=kind, site=known.site, round=known.round, run_id=known.run_id, refusal=refusal)
        content = reply(replace(told, secure=complaint, schema=known.schema, instance=known.instance))
    return Message(content, reply_to=message)


def _refusal(error: BaseException, otherwise: str) -> Refusal:
    """Turn a failure into a code. Only texts of the policy and of secure aggregation are sent on: we wrote them."""
    if isinstance(error, _RefusedError):
        return Refusal(code=error.code)
    if isinstance(error, PolicyError | SecAggError):
        printable = "".join(c if " " <= c <= "~" else "?" for c in str(error))
        return Refusal(code="policy" if isinstance(error, PolicyError) else "secure", text=printable[:200])
    if isinstance(error, MessageError):
        return Refusal(code=error.code)
    return Refusal(code="data" if isinstance(error, InputError) else otherwise)


def _answer(
    kinds: Sequence[str], training: Training, content: RecordDict, context: Context, known: _RequestHead
) -> RecordDict:
    home = str(context.node_config.get(HOME_KEY, ""))
    site, asked = _site(context, known), parse_request(content)
    if asked.kind == "evaluate" or (isinstance(asked.task, TrainTask) and asked.task.terms is None):
        site = without(site, home)
    known.run_id, known.round, known.schema = asked.run_id, asked.round, asked.schema
    known.instance = str(context.node_config.get(INSTANCE_KEY, ""))
    if asked.kind not in kinds:
        raise _RefusedError("schema")
    known.kind = asked.kind
    patients = _count_patients(site, asked.kind)
    if patients == 0 and not (asked.kind == "evaluate" and asked.secure):  # a sum of scores has room for nobody's
        raise _RefusedError("no_patients")
    gate = _gate(context)
    gate.check_copies(asked, known.instance)
    _check(gate, training, site, asked)
    own = partial(Reply, schema=asked.schema, instance=known.instance, seen=gate.seen())
    answered = partial(own, kind=asked.kind, site=site.site, round=asked.round, run_id=asked.run_id)
    secure = _secure(gate, asked)
    if secure is not None and asked.kind in SECURE_KINDS:
        return reply(answered(secure=secure.answer(asked)))
    account = account_for(gate, asked)
    if secure is not None:
        secure.open(asked)
    try:
        done = _run(training, site, asked)
    except UnreadableCasesError as error:
        site = leave_out(site, home, error)  # nothing is charged yet: the others are trained on
        SITE_LOG.error("%d cases are left out; `client status` names them", len(error.cases))
        patients = _count_patients(site, asked.kind)
        _check(gate, training, site, asked)
        done = _run(training, site, asked)
    if isinstance(asked.task, TrainTask | StatisticsTask):
        gate.count_answer(asked)
    if account is not None:
        # On the disk before anything leaves. From here on nothing may fail that could be asked for again.
        account.spend()
        account.hold()
    if secure is not None:
        ring = _exact_ring(asked, done, patients, gate.filter_metrics(done.metrics)) if done.ring is None else done.ring
        message, masked = secure.mask(asked, ring)
        return reply(answered(secure=message, ring=masked, ledger=gate.newest_record()))
    return reply(
        answered(
            ledger=gate.newest_record(),
            patients=patients,
            vector=done.update,
            metrics=gate.filter_metrics(done.metrics),
        )
    )


def _count_patients(site: SiteConfig, kind: str) -> int:
    """Count the patients behind an answer, each once, however many plans they have."""
    return len(site.validation if kind == "evaluate" else site.patients())


@dataclass(frozen=True, kw_only=True)
class _Done:
    """The result of a task. ``ring`` is a release whose noise is drawn in the ring."""

    update: Vector | None = None
    ring: Ring | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def _secure(gate: Gate, asked: Request) -> SecureSite | None:
    """Return this site's part in secure aggregation if the request belongs to it, else None.

    In every mode but none, answers leave under masks and in no other way.
    """
    summed = asked.task is not None and asked.task.mode in SUMMED
    if asked.secure is None and not summed:
        return None
    if asked.secure is None:
        raise PolicyError("modes: in every mode but none, an answer leaves this site only under masks")
    if asked.kind not in SECURE_KINDS and not summed:
        raise PolicyError("modes: in mode none, this site's answers have no masks")
    return gate.secure_site()


def _exact_ring(asked: Request, done: _Done, patients: int, means: Mapping[str, float]) -> Ring:
    """Write an update, or scores, in the fixed-point numbers of the task's exact sum (privacy/secagg/exact_sums.py)."""
    task = asked.task
    exact = None if task is None else task.mask_terms
    if task is None or exact is None:
        raise _RefusedError("training_failed")
    update = np.empty(0, np.float32) if done.update is None else done.update
    return exact.encode(update, patients, means, task.means)


def _run(training: Training, site: SiteConfig, asked: Request) -> _Done:
    """Do the task."""
    task, vector = asked.task, asked.vector
    if isinstance(task, StatisticsTask):
        from client.training.count_patients import counts_release

        return _Done(ring=counts_release(site, task))
    if task is None or vector is None:
        return _Done()
    vector = vector.copy()  # the message's own bytes are read-only, and torch wants arrays that it may write
    if isinstance(task, EvaluateTask):
        return _Done(metrics=training.evaluate_round(site, asked.spec_json, vector, task) if site.validation else {})
    if task.terms is None:
        update, metrics = training.train_round(site, asked.spec_json, vector, task)
        return _Done(update=_check_update(update, vector), metrics=metrics)
    # No metrics: each would be a release that nobody has paid for.
    found = training.private_round(site, asked.spec_json, vector, task, task.terms)
    if task.terms.mode in NOISE_SHARED:
        return _Done(ring=found)  # type: ignore[arg-type]
    return _Done(update=_check_update(found, vector))


def _check_update(update: Vector | Ring, vector: Vector) -> Vector:
    if update.shape != vector.shape or update.dtype != np.float32:
        raise _RefusedError("training_failed")
    return update  # type: ignore[return-value]


def _check(gate: Gate, training: Training, site: SiteConfig, asked: Request) -> None:
    """Check a request against the site's own limits first, then against what is installed here."""
    try:
        gate.check_request(site, asked, datetime.now())
    except InputError as error:  # the specification cannot be read
        raise _RefusedError("wrong_model") from error
    gate.check_size(_check_model(training, asked))


def _check_model(training: Training, asked: Request) -> int:
    """Return the vector length of the requested model; it must be the one installed here."""
    try:
        manifest, size = training.model(asked.spec_json)
    except InputError as error:
        raise _RefusedError("wrong_model") from error
    if manifest != asked.manifest_hash or (asked.vector is not None and asked.vector.size != size):
        raise _RefusedError("wrong_model")
    return size


def _gate(context: Context) -> Gate:
    """Return the hospital's gate if the node names a site's folder, else a simulated site's gate."""
    node = context.node_config
    if HOME_KEY not in node:
        return SimulatedGate(ledger_folder=str(node.get(LEDGER_KEY, "")), enrolled_as=str(node.get(SECURE_KEY, "")))
    try:
        return HospitalGate.of_home(Path(str(node[HOME_KEY])))
    except InputError as error:
        raise _RefusedError("site_config") from error


def _site(context: Context, known: _RequestHead) -> SiteConfig:
    path = context.node_config.get(NODE_CONFIG_KEY)
    try:
        if not isinstance(path, str):
            raise InputError(f"node config: {NODE_CONFIG_KEY} is missing; expected the path of the site's YAML file")
        status = Path(path).stat()
        site = _load_site(path, status.st_mtime_ns, status.st_size)
    except (InputError, OSError) as error:
        raise _RefusedError("site_config") from error
    known.site = site.site
    return site


@lru_cache(maxsize=256)
def _load_site(path: str, modified_ns: int, size: int) -> SiteConfig:
    """Load a site's configuration; load it again only when its file has changed."""
    return SiteConfig.load(Path(path))


_WORK = {"train": "training_failed", "evaluate": "evaluation_failed"}
_FAILED: Mapping[str, str] = {**dict.fromkeys(MESSAGE_TYPES, "internal"), **_WORK}

app = client_app(InstalledTraining())
