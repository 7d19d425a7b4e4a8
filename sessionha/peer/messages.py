"""Every message that travels between nodes, as typed structs, and the one codec for them.

Requests have a reply (or are cast: no reply is awaited). No message that decides anything carries
an instant: deadlines travel as remaining milliseconds. A decoder accepts only what is listed here
(contract, section 8).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sessionha.errors import BadMessage
from sessionha.identity import NO_EPOCH, NO_VIEW, Epoch, GroupID, Position, SessionKey, ViewID
from sessionha.view import Drains, Member, Node, View


def size_of(value: bytes | None) -> str:
    """What may be told of a value: its size."""
    return "deleted" if value is None else f"{len(value)} bytes"


class Wire(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A message."""


# --- data: between state managers ---------------------------------------------------------------


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """Whose a session is, since when, and which log-outs cannot mean it."""

    subject: str
    """Empty, in a change: nobody's any more."""
    virtual_server: str
    handle: bytes
    """Random, made with this owner and kept when the session is renewed: what people are shown of
    the session, and what log-outs name. It opens nothing."""
    since: int = 0
    """When the session became the subject's, milliseconds: an instant in the store, an age in
    messages; set where the change is merged."""
    seen: int = 0
    """The highest number of the subject's log-outs that was known then and there."""

    def __repr__(self) -> str:
        return "<Owner>"  # a subject may be personal data


class SessionRow(msgspec.Struct, frozen=True, array_like=True):
    """A session's own facts, as they travel: ages and remaining times in milliseconds."""

    key: SessionKey
    version: int
    age: int
    unused: int
    """Since the last recorded use; of a tombstone, since the session was destroyed."""
    idle_timeout: int
    idle_left: int
    life_left: int
    """0: no absolute lifetime."""
    size: int
    count: int
    destroyed: bool = False
    """A tombstone: `idle_left` says how long it must be kept (R11)."""
    owner: Owner | None = None


class ElementRow(msgspec.Struct, frozen=True, array_like=True):
    """An element as it travels; `value` is its encoded form, None a tombstone."""

    session: SessionKey
    name: str
    version: int
    manager: str
    value: bytes | None

    def __repr__(self) -> str:
        """Without the value: messages may end in a log or a traceback."""
        return f"<ElementRow: {self.name!r}, version {self.version}, {size_of(self.value)}>"


class ElementPatch(msgspec.Struct, frozen=True, array_like=True):
    """A change inside a large element: the operation travels, and every copy does it."""

    session: SessionKey
    name: str
    version: int
    manager: str
    since: int
    """The element's version that the operation changes."""
    operation: bytes
    check: int
    """CRC-32 of the encoded value after it."""

    def __repr__(self) -> str:
        """Without the operation, which holds values."""
        return f"<ElementPatch: {self.name!r}, version {self.version}, {size_of(self.operation)}>"


class Push(Wire, frozen=True):
    """What changed in a group since `base` (R8); `full`: everything, drop what is not in it."""

    group: GroupID
    base: Position
    full: bool
    epoch: Epoch
    version: int
    acked: int
    line: tuple[tuple[Epoch, int], ...]
    """Where the group's epochs began: (epoch, its first version), oldest first."""
    holders: tuple[str, ...]
    """C, primary first. A receiver that is not in it gives its copy up."""
    formed: tuple[int, str]
    """The view under which C was formed."""
    seats: tuple[str, ...]
    trimmed: int
    """Element tombstones up to this version are gone; an older copy needs everything."""
    sessions: tuple[SessionRow, ...]
    elements: tuple[ElementRow, ...]
    patches: tuple[ElementPatch, ...] = ()
    """A receiver that cannot do one of them answers `Behind`."""


class Pushed(Wire, frozen=True):
    """The copy is at this version of the pushed epoch, and in sync."""

    version: int


class Behind(Wire, frozen=True):
    """The copy is not at the base; here is where it is."""

    position: Position


class Refused(Wire, frozen=True):
    """The receiver promised a newer epoch; nothing was changed."""

    promise: Epoch


class CannotHold(Wire, frozen=True):
    """The receiver recorded "not in sync" and holds nothing of the group: full, or draining."""

    reason: str


class Failed(Wire, frozen=True):
    """A request that could not be carried out; `kind` names an error of the error tree."""

    kind: str
    reason: str


Answer = Pushed | Behind | Refused | CannotHold | Failed
"""What a push is answered with."""


class Pushes(Wire, frozen=True):
    """Pushes of many groups, each of them accepted or not by itself; answered by Answers."""

    pushes: tuple[Push, ...]


class Answers(Wire, frozen=True):
    """One answer per push, in their order."""

    answers: tuple[Answer, ...]


class Compare(Wire, frozen=True):
    """Before a walk: where are the receiver's quarantined copies of this domain? `digest` is of
    those that the sender is about to bring to it."""

    domain: int
    digest: bytes


class Compared(Wire, frozen=True):
    """All is as the sender's digest says (`same`), or where the copies are; one that is not named
    is taken for missing."""

    same: bool
    positions: tuple[tuple[GroupID, Position], ...] = ()


class Walk(Wire, frozen=True):
    """Content of groups for a receiver that is not in C: it keeps them in quarantine, and nobody
    counts on them. A step that takes it into C then carries little (R10)."""

    pushes: tuple[Push, ...]


class Walked(Wire, frozen=True):
    """Which of the copies the receiver has kept, in their order."""

    kept: tuple[bool, ...]


class Claim(Wire, frozen=True):
    """Hand-over: the claimant asks the living primary for the group under a new epoch."""

    group: GroupID
    epoch: Epoch
    position: Position
    """Where the claimant's own copy is; the grant carries what is newer."""


class Granted(Wire, frozen=True):
    """The primary promised the claim's epoch; `content` brings the claimant up to date."""

    content: Push


class NotPrimary(Wire, frozen=True):
    """The asked node is not a synced primary: ask `hint`, or promote in full."""

    hint: str = ""
    promise: Epoch = NO_EPOCH
    """What made it say so: a hint under a newer promise is news, and worth a question."""


class TakeOver(Wire, frozen=True):
    """Claim these groups of the sender, which is about to stop: the sender's wish, no more."""

    groups: tuple[GroupID, ...]


class TookOver(Wire, frozen=True):
    """The groups among them that the receiver serves now."""

    groups: tuple[GroupID, ...]


class Promise(Wire, frozen=True):
    """Ask a member to refuse every epoch of these groups below `epoch` (R3)."""

    groups: tuple[GroupID, ...]
    epoch: Epoch


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """What one member said of one group when it was asked to promise."""

    promised: Epoch
    """The highest promise it has given; the asked epoch when it was granted."""
    position: Position
    held: bool
    in_sync: bool
    holders: tuple[str, ...]
    formed: tuple[int, str]
    seats: tuple[str, ...]


class Promised(Wire, frozen=True):
    """One standing per asked group, in the order of the question."""

    standings: tuple[Standing, ...]


class Fetch(Wire, frozen=True):
    """Ask for what is newer than `position` in a group."""

    group: GroupID
    position: Position


class Fetched(Wire, frozen=True):
    """The content asked for, or None when the node holds nothing."""

    content: Push | None


class Examine(Wire, frozen=True):
    """A holder of copies verifies them: ask their primary what it has."""

    groups: tuple[GroupID, ...]


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """What a session is recognised by."""

    key: SessionKey
    digest: bytes
    """Of all that is the same wherever the group is at one position; empty: its subject is logged
    out, and that is not in every copy yet."""
    lives: bool


class Exam(msgspec.Struct, frozen=True, array_like=True):
    """A group as its primary has it."""

    group: GroupID
    position: Position
    acked: int
    counted: bool
    """Whether the asker is in C."""
    sessions: tuple[Shown, ...]


class Examined(Wire, frozen=True):
    """The answer to Examine: of those of the groups that the receiver leads."""

    groups: tuple[Exam, ...]


class FindCopies(Wire, frozen=True):
    """Ask a member which of these groups it has a copy of that is in sync."""

    groups: tuple[GroupID, ...]


class CopiesFound(Wire, frozen=True):
    """The answer."""

    groups: tuple[GroupID, ...]


class FindOld(Wire, frozen=True):
    """Ask a member which copies it has that are not in sync, of groups above `after` (empty: from
    the first)."""

    after: GroupID


class OldFound(Wire, frozen=True):
    """The answer, and above which group to ask on; empty: those were the last."""

    groups: tuple[GroupID, ...]
    after: GroupID


class CountCopies(Wire, frozen=True):
    """Ask a member how many groups it has a copy of."""


class CopiesCounted(Wire, frozen=True):
    """The answer."""

    copies: int


class Create(msgspec.Struct, frozen=True, array_like=True):
    """A new session's lifetimes, milliseconds; `lifetime` 0 means none."""

    idle_timeout: int
    lifetime: int


class SessionChange(msgspec.Struct, frozen=True, array_like=True):
    """What one request did to one session."""

    key: SessionKey
    create: Create | None = None
    replaces: SessionKey | None = None
    """Renewal: everything of that session moves here and it leaves a tombstone."""
    destroy: bool = False
    clear: bool = False
    """Drop every element before `puts`."""
    puts: tuple[tuple[str, str, bytes], ...] = ()
    """(element, manager, encoded value)."""
    deletes: tuple[str, ...] = ()
    edits: tuple[tuple[str, str, bytes, bytes | None], ...] = ()
    """(element, manager, encoded operation, encoded value after it where nobody else changed the
    element; None: the operation alone counts, and what has no place for it is refused)."""
    owner: Owner | None = None
    """None: whose it was."""
    idle_timeout: int = 0
    """Milliseconds that it may be unused from now on; 0: as it was."""
    ends_empty: bool = False
    """Whether the session ends if nothing is left in it but what `deletes` takes."""

    @property
    def written(self) -> list[str]:
        """The names of the elements that get a value."""
        names = [name for name, _, _ in self.puts]
        if self.edits:
            names += [name for name, _, _, _ in self.edits]
        return names

    @property
    def only_elements(self) -> bool:
        """Whether the session stays what it is, and some of its elements change."""
        same = self.create is None and self.replaces is None
        return same and not (self.destroy or self.clear)

    def __repr__(self) -> str:
        """Without the values, as of an ElementRow."""
        written = (*self.puts, *((name, manager, done) for name, manager, done, _ in self.edits))
        puts = ", ".join(f"{name!r}: {size_of(value)}" for name, _, value in written)
        return f"<SessionChange: puts {{{puts}}}, deletes {self.deletes}, destroy {self.destroy}>"


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """The changes of one request in one group: all of them or none, under one version (G5)."""

    group: GroupID
    changes: tuple[SessionChange, ...]
    read: Position | None = None
    """Where the group was when the request read it; what is newer, others changed meanwhile."""


class Forward(Wire, frozen=True):
    """Commit this batch as the primary: its sender lost the group while a request ran (R5)."""

    batch: Batch


class Committed(Wire, frozen=True):
    """The forwarded batch is committed and acknowledged."""

    position: Position
    holders: tuple[str, ...]


class Touch(Wire, frozen=True):
    """Sessions of a group were used: (session, remaining idle milliseconds). Cast only."""

    group: GroupID
    sessions: tuple[tuple[SessionKey, int], ...]


class Whose(Wire, frozen=True):
    """Ask for the sessions of a subject, and where the copies of these groups are."""

    subject: bytes
    """SHA-256 of the subject."""
    groups: tuple[GroupID, ...] = ()


class Theirs(msgspec.Struct, frozen=True, array_like=True):
    """One session of a subject, as one holder has it."""

    group: GroupID
    key: SessionKey
    owner: Owner
    age: int
    unused: int
    position: Position
    in_sync: bool
    serves: bool
    """Whether the holder is the group's primary."""


class Found(Wire, frozen=True):
    """The answer to Whose."""

    sessions: tuple[Theirs, ...]
    positions: tuple[tuple[GroupID, Position], ...] = ()
    """Of the groups asked for: where this member's copy is, if it has one."""
    more: bool = False
    """Whether there are more sessions than one answer takes."""


class Revocation(msgspec.Struct, frozen=True, array_like=True):
    """A log-out of a subject: of every session that was its, or of some."""

    id: bytes
    number: int
    """Above every one that its maker knew for the subject."""
    at: int
    """When it was made: an instant in the store, an age in messages."""
    kept: tuple[bytes, ...] = ()
    """Handles of sessions that it does not mean."""
    only: tuple[bytes, ...] = ()
    """Handles of the sessions that it means; empty: all but those kept."""
    over: tuple[bytes, ...] = ()
    """Revocations that say nothing beside this one."""


class Revoke(Wire, frozen=True):
    """Remember this log-out; answered by Revoked: what the receiver knows of the subject."""

    subject: bytes
    revocation: Revocation


class Revocations(Wire, frozen=True):
    """Ask for the log-outs of subjects above this one, in order."""

    after: bytes


class Revoked(Wire, frozen=True):
    """Log-outs by subject; none: there are no more."""

    rows: tuple[tuple[bytes, tuple[Revocation, ...]], ...]


class Word(msgspec.Struct, frozen=True, array_like=True):
    """What an operator said about the delay of one node: it holds until the node joins again."""

    node: str
    kind: Literal["hold", "now", "extend"]
    number: int
    """Above every one that its maker knew for the node."""
    view: ViewID
    """The view that its maker held: a node that joined later has returned since."""
    maker: str
    """The node that was told."""
    extra: int = 0
    """extend: milliseconds beyond the delay that is set."""

    def supersedes(self, other: Word) -> bool:
        """Whether this is the later word, or the one that all nodes take for it."""
        mine, theirs = (self.view, self.number), (other.view, other.number)
        return (*mine, self.maker) > (*theirs, other.maker)


class Tell(Wire, frozen=True):
    """What the sender knows that operators said of delays; answered by Told: what the receiver
    knows besides."""

    words: tuple[Word, ...]


class Told(Wire, frozen=True):
    """Words that supersede those told, or are about other nodes."""

    words: tuple[Word, ...]


class Weigh(Wire, frozen=True):
    """Ask what only these nodes have, of each list: of the groups that the receiver leads, or is
    the first living holder of. Without a list: whether the receiver is there."""

    nodes: tuple[tuple[str, ...], ...] = ()
    silent: tuple[str, ...] = ()
    """Members that do not answer: what they hold counts as gone."""


class Weight(msgspec.Struct, frozen=True, array_like=True):
    """Groups, their sessions that were not destroyed, and the bytes of those."""

    groups: int = 0
    sessions: int = 0
    bytes: int = 0

    def plus(self, other: Weight) -> Weight:
        """Both together."""
        return Weight(
            self.groups + other.groups, self.sessions + other.sessions, self.bytes + other.bytes
        )


class Weighed(Wire, frozen=True):
    """One weight for each list, in the order of the question."""

    weights: tuple[Weight, ...]


class Share(msgspec.Struct, frozen=True, array_like=True):
    """Groups, and the bytes of their sessions."""

    groups: int = 0
    bytes: int = 0

    def plus(self, other: Share) -> Share:
        """Both together."""
        return Share(self.groups + other.groups, self.bytes + other.bytes)


class Course(msgspec.Struct, frozen=True, array_like=True):
    """How far a node's healing of its groups has come, in the view in which it began."""

    under_way: bool = False
    domains: int = 0
    domains_done: int = 0
    groups: int = 0
    groups_done: int = 0
    bytes: int = 0
    """About, of the copies that are to be made."""
    bytes_done: int = 0
    ended: ViewID = NO_VIEW
    """The latest view in which nothing was left to do."""
    passed_over: int = 0
    """Groups that lack a copy for which nobody had room; they are looked at again."""


class Health(msgspec.Struct, frozen=True, array_like=True):
    """How many copies the groups have that a node answers for."""

    redundant: Share = Share()
    """With as many copies as are wanted."""
    degraded: Share = Share()
    """With fewer, and at least one."""
    at_risk: Share = Share()
    """With none besides the node itself."""
    old: int = 0
    """Copies here from before an absence, which count for nobody until they are brought up to
    date."""
    view: ViewID = NO_VIEW
    complete: bool = False
    """Whether all groups were counted since that view; else some numbers are older."""
    course: Course = Course()

    def plus(self, other: Health | None) -> Health:
        """Both together; the view stays."""
        if other is None:
            return self
        return msgspec.structs.replace(
            self,
            redundant=self.redundant.plus(other.redundant),
            degraded=self.degraded.plus(other.degraded),
            at_risk=self.at_risk.plus(other.at_risk),
            old=self.old + other.old,
        )


class Survey(Wire, frozen=True):
    """Ask for the health of the receiver's groups."""


class Surveyed(Wire, frozen=True):
    """The numbers."""

    health: Health


# --- membership: between topology managers -------------------------------------------------------


class Ping(Wire, frozen=True):
    """A heartbeat: who I am and the view I hold."""

    me: Member
    view: tuple[int, str]
    description: str = ""
    """Hash of the sender's static description; a difference is reported."""
    state: str = "joined"
    """The state of the sender's topology automaton."""
    asked: int = 0
    """Asks for a lease: an instant of the sender's own clock, which means nothing to others; 0
    asks for none."""
    lease: int = 0
    """For how many milliseconds the sender would serve."""
    run: int = 0
    """Counts the starts of the sender's node."""
    cluster: str = ""
    """The identity of the sender's cluster (quorum mode)."""


class Pong(Wire, frozen=True):
    """The answer: who answers, and its whole view when it differs from the asker's."""

    me: Member
    view: tuple[int, str]
    newer: View | None = None
    description: str = ""
    state: str = "joined"
    """Only a view whose sender is `joined` is in force; one `reconnecting` is being verified."""
    granted: bool = False
    """Whether the receiver may count this answer for its lease (R9)."""
    blank: str = ""
    """The sender has no votes (R7a): a token of their loss."""
    cluster: str = ""


class Join(Wire, frozen=True):
    """A node that is in no view asks to be a member (again)."""

    me: Member
    view: View
    """The last view it knew; a member number above it is chosen."""
    served: bool
    """Whether it could have served alone, so that a barrier is needed."""
    kept: bool = False
    """Whether its store holds data from an earlier membership."""
    vouched: bool = False
    """The member that tells of it has seen it answer at its address."""


class Describe(Wire, frozen=True):
    """Ask a node for its description of the cluster; answered by Described."""


class Described(Wire, frozen=True):
    """The nodes that the receiver's description has, in its order."""

    nodes: tuple[Node, ...]


class Watch(Wire, frozen=True):
    """An observer (a router) holds this view; answered by Installed when it differs, else Done
    after a heartbeat."""

    view: tuple[int, str]


class Install(Wire, frozen=True):
    """A decided view."""

    view: View


class Installed(Wire, frozen=True):
    """The view that the receiver now holds."""

    view: View


class Confirm(Wire, frozen=True):
    """Ask a third member whether it can reach `node`."""

    node: str


class Confirmed(Wire, frozen=True):
    """What the third member saw: it answers, its host refuses, or it is silent."""

    verdict: Literal["alive", "refused", "silent"]


class Report(Wire, frozen=True):
    """Tell the decider that `node` is dead: its host refused, or two members found it silent."""

    node: str
    incarnation: str
    refused: bool
    cut: bool = False
    """It lives, but nothing passes between it and the sender, neither straight nor by one hop."""


class Leave(Wire, frozen=True):
    """A planned goodbye; `returning`: a restart, seats are kept."""

    node: str
    incarnation: str
    returning: bool
    run: int = 0
    """Which start of its node says goodbye."""


class Drain(Wire, frozen=True):
    """An operator wants the receiver to drain in this way, or (empty) no more; None: only to tell
    how far it is. Answered by DrainProgress."""

    how: Drains | None


Phase = Literal["", "announced", "handing over", "copying", "done"]
"""Where a planned stop is."""


class DrainProgress(Wire, frozen=True):
    """How far a node is with its planned stop."""

    node: str
    how: Drains = ""
    """Empty: it does not drain."""
    phase: Phase = ""
    moved: int = 0
    """Groups that others have taken over."""
    waiting: int = 0
    """Groups that are still to be handed over, or whose copies are made elsewhere."""
    groups: int = 0
    """When it is done: groups that it could not hand over."""
    sessions: int = 0
    """The sessions in these."""
    alone: int = 0
    """Those of them that have no copy in sync on another member."""
    copies: int = 0
    """When it is done and goes for good: groups that others lead, and of which it has one of the
    copies still, since that could not be made elsewhere."""


Ballot = tuple[int, str]
"""A proposer's attempt: a round, and who attempts; no two attempts have the same."""


class Prepare(Wire, frozen=True):
    """Paxos for the view `number`, phase 1: promise to accept nothing of a lower ballot."""

    number: int
    ballot: Ballot
    base: View
    """The view before, which is decided; of the first view: its electors."""


class Prepared(Wire, frozen=True):
    """The answer of an elector; `promised` is the highest ballot that it has promised."""

    promised: Ballot
    accepted: Ballot
    """Of the view that it has accepted for this number."""
    view: View | None
    blank: str
    """It has lost its votes: a token of the loss."""
    held: int
    """The number of the view that it holds; from the asked one on, the question is void."""


class Accept(Wire, frozen=True):
    """Paxos, phase 2: accept this view."""

    ballot: Ballot
    view: View
    tokens: tuple[tuple[str, str], ...] = ()
    """Electors without votes that count all the same, because every elector answered (R7a)."""


class Accepted(Wire, frozen=True):
    """The answer of an elector."""

    ok: bool
    promised: Ballot
    wait: int
    """Not yet: for so many milliseconds a member that the view leaves out may have a lease."""
    held: int


class Inspect(Wire, frozen=True):
    """An operator wants to know whether the receiver answers, and what time it has."""


class Inspected(Wire, frozen=True):
    """The answer: people are told when clocks differ, and nothing else is done with it."""

    now: int
    """Milliseconds of the wall clock."""


class Relay(Wire, frozen=True):
    """A message that takes one hop, because nothing passes between its sender and its receiver
    (R1). A member passes it on to the receiver; with an origin it is never passed on again."""

    node: str
    incarnation: str
    """The receiver's: no other may have it."""
    data: bytes
    """The encoded message."""
    timeout: int
    """Milliseconds for which the sender awaits the reply; 0: it awaits none."""
    origin: tuple[str, str] | None = None
    """The sender and its incarnation, as the member in between knows them by their stream."""

    def __repr__(self) -> str:
        """Without the message, which may hold values."""
        return f"<Relay: to {self.node!r}, {len(self.data)} bytes>"


class Relayed(Wire, frozen=True):
    """The receiver's encoded reply; None: there was none, and why."""

    data: bytes | None
    why: str = ""
    sent: bool = True
    """Whether the message may have arrived."""

    def __repr__(self) -> str:
        return f"<Relayed: {self.why if self.data is None else f'{len(self.data)} bytes'}>"


class Done(Wire, frozen=True):
    """Received; nothing else to say."""


Message = (
    Push | Pushed | Behind | Refused | CannotHold | Claim | Granted | NotPrimary | Promise
    | Promised | TakeOver | TookOver | Fetch | Fetched | Forward | Committed | Failed | Touch
    | Whose | Found | Revoke | Revocations | Revoked
    | Tell | Told | Survey | Surveyed | Weigh | Weighed
    | Ping | Pong | Join | Watch | Install | Installed | Confirm | Confirmed | Report | Leave | Done
    | Drain | DrainProgress
    | Prepare | Prepared | Accept | Accepted | Inspect | Inspected
    | Describe | Described | Relay | Relayed
    | Pushes | Answers | Compare | Compared | Walk | Walked
    | Examine | Examined | CountCopies | CopiesCounted | FindCopies | CopiesFound
    | FindOld | OldFound
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The message's bytes."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview) -> Message:
    """The message. Raises BadMessage for anything that is not exactly one of them."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadMessage(str(error)) from error
